"""The comment in a video's file: all that the request says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import av
import msgspec
import pytest
import torch

from ringlight.core.lora import Lora
from ringlight.core.request import RequestDefaults
from ringlight.core.video_fields import VIDEO_FIELDS
from ringlight.families.model import ModelSpec
from ringlight.pipelines.output import finish, open_writer


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_does_not_tell_where_that_is_not_wanted(spec: ModelSpec, tmp_path: Path, suffix: str) -> None:
    defaults = RequestDefaults(width=64, height=32, num_frames=5, negative_prompt="secret fog")
    writer = open_writer(tmp_path / f"film{suffix}", defaults.complete("a secret", spec, seed=11), "job", embeds=False)
    writer.write(torch.zeros(5, 32, 64, 3, dtype=torch.uint8))
    (path,) = finish(writer)
    with av.open(path) as container:
        assert "comment" not in {name.lower() for name in container.metadata}
    assert b"secret" not in Path(path).read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_tells_how_it_was_made(spec: ModelSpec, tmp_path: Path, suffix: str) -> None:
    defaults = RequestDefaults(width=64, height=32, num_frames=5, negative_prompt="Regen 雨", sampler="euler")
    request = defaults.complete('« café » \n 猫 & "quotes"', spec, seed=11)
    lora = Lora(name="style", strength=0.5, sha256="0" * 64, num_bytes=10)
    request = msgspec.structs.replace(request, image=b"a secret picture", lora=(lora,))
    writer = open_writer(tmp_path / f"film{suffix}", request, "job")
    writer.write(torch.zeros(5, 32, 64, 3, dtype=torch.uint8))
    (path,) = finish(writer)
    with av.open(path) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    told = json.loads(tags["comment"])["ringlight"]
    assert told["prompt"] == request.prompt
    assert told.pop("lora") == [{"name": "style", "strength": 0.5, "target": None}]
    known = {field.name: getattr(request, field.name) for field in VIDEO_FIELDS if field.name != "lora"}
    assert told == {"prompt": request.prompt} | {name: value for name, value in known.items() if value is not None}
    whole = Path(path).read_bytes()
    assert b"secret" not in whole and b"0" * 64 not in whole
    assert suffix != ".mp4" or whole.index(b"moov") < whole.index(b"mdat")  # can be played before all of it is there
