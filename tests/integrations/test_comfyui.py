"""The nodes for ComfyUI, in a double of it, with films of a real server."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image

from ringlight import __version__
from ringlight.client import ApiError
from ringlight.core.video_fields import VIDEO_FIELDS
from tests.engine.processes import wait_until
from tests.integrations import comfy_double
from tests.integrations.comfy_double import Comfy, Film, InterruptProcessingException, as_prompt, declared
from tests.server.served import LONG, SMALL, Served, serve

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
KEY = "sk-of-a-test-0123456789"
SIZE = {"width": 64, "height": 64}
WIDGETS = SIZE | {name: value for name, value in SMALL.items() if name not in ("prompt", "size")}
ENDLESS = SIZE | {name: value for name, value in LONG.items() if name not in ("prompt", "size")}


def load(folder: Path, has_videos: bool = True) -> Iterator[Comfy]:
    comfy, name = Comfy(folder, has_videos), f"pack_{folder.name}"
    with comfy.running():
        comfy.load(PACK, name)
        yield comfy
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.fixture
def comfy(tmp_path: Path) -> Iterator[Comfy]:
    """One that has loaded the pack."""
    yield from load(tmp_path)


@pytest.fixture
def own(served: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The server that the environment names."""
    monkeypatch.setenv("RINGLIGHT_URL", served.url)
    monkeypatch.delenv("RINGLIGHT_API_KEY", raising=False)
    return served


def film(kind: str = "RinglightTextToVideo", **inputs: Any) -> dict[str, dict[str, Any]]:
    """A workflow of one node that makes a film, and the one that saves it."""
    made = {"class_type": kind, "inputs": {"prompt": SMALL["prompt"]} | inputs}
    saved = {"video": ["1", 3], "filename_prefix": "film", "format": "auto", "codec": "auto"}
    return {"1": made, "2": {"class_type": "SaveVideo", "inputs": saved}}


def newest(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]
    return served.get(found["id"])


@pytest.mark.slow
def test_a_text_becomes_frames_and_a_film(comfy: Comfy, own: Served) -> None:
    frames, fps, file, video = comfy.run(film(**WIDGETS, fps=12))["1"]
    assert (frames.shape, frames.dtype, fps) == ((5, 64, 64, 3), torch.float32, 12.0)
    assert 0 <= frames.min() < frames.max() <= 1
    assert isinstance(video, Film) and video.get_dimensions() == (64, 64)
    content = own.http.get(f"/v1/videos/{newest(own)['id']}/content").content
    assert Path(file).read_bytes() == content and video.file == file
    percents = [value for value, total, preview in comfy.shown if total == 100]
    assert percents == sorted(percents) and percents[-1] == 100


@pytest.mark.slow
def test_what_nobody_touched_is_the_servers_to_say(comfy: Comfy, own: Served) -> None:
    """All widgets as they begin, beside those that keep the film small."""
    kind = comfy.nodes["RinglightTextToVideo"]
    begun = {
        name: options.get("default", options.get("options", [""])[0])
        for name, (type_, options, _) in declared(kind).items()
        if type_ in comfy_double.WIDGETS
    }
    comfy.run(film(**begun | WIDGETS | {"prompt": SMALL["prompt"]}))
    left = newest(own)
    own.completed()
    assert {field.name: left.get(field.name) for field in VIDEO_FIELDS} == {
        field.name: newest(own).get(field.name) for field in VIDEO_FIELDS
    }


@pytest.mark.slow
def test_a_film_begins_with_a_picture(comfy: Comfy, own: Served) -> None:
    comfy_double.Picture.given = torch.zeros(2, 40, 80, 4)
    workflow = film("RinglightPictureToVideo", first_frame=["3", 0], num_frames=5, num_inference_steps=2, width=128)
    workflow["3"] = {"class_type": "LoadImage", "inputs": {}}
    frames = comfy.run(workflow)["1"][0]
    assert frames.shape == (5, 64, 128, 3)  # the height follows from the picture
    assert newest(own)["pictures"] == ["image"]
    workflow["1"]["inputs"] |= {"last_frame": ["3", 0], "seed": 1}
    with pytest.raises(ApiError, match="last_image"):  # of a model that takes none, in the server's words
        comfy.run(workflow)


@pytest.mark.slow
def test_cancel_ends_the_video_on_the_server(comfy: Comfy, own: Served) -> None:
    """Whether the bar is told of it, or nothing happens for long."""
    previews: list[Any] = []

    def press(value: int, total: int, preview: Any) -> None:
        if newest(own)["status"] == "in_progress":
            comfy.is_interrupted = True

    comfy.on_progress = press
    with pytest.raises(InterruptProcessingException):
        comfy.run(film(**ENDLESS))
    wait_until(lambda: newest(own)["status"] == "failed")
    assert newest(own)["error"]["code"] == "cancelled"

    def press_later(value: int, total: int, preview: Any) -> None:
        previews.append(preview)
        comfy.is_interrupted = preview is not None

    comfy.on_progress = press_later
    with pytest.raises(InterruptProcessingException):
        comfy.run(film(**ENDLESS | {"seed": 8}))
    format_, picture, most_pixels = previews[-1]
    assert format_ == "JPEG" and isinstance(picture, Image) and max(picture.size) <= most_pixels
    wait_until(lambda: newest(own)["status"] == "failed")


@pytest.mark.slow
def test_errors_are_the_servers_words(comfy: Comfy, own: Served) -> None:
    refused = own.http.post("/v1/videos", json=SMALL | {"size": None, "width": 1000, "height": 64}).json()["error"][
        "message"
    ]
    with pytest.raises(ApiError) as caught:
        comfy.run(film(**WIDGETS | {"width": 1000}))
    assert str(caught.value) == refused

    def end(value: int, total: int, preview: Any) -> None:
        own.http.post(f"/v1/videos/{newest(own)['id']}/cancel")

    comfy.on_progress = end
    with pytest.raises(Exception, match=r"\(cancelled\)$") as failed:
        comfy.run(film(**ENDLESS))
    assert type(failed.value).__name__ == "VideoFailed"


@pytest.mark.slow
def test_what_is_fixed_is_made_once(comfy: Comfy, own: Served) -> None:
    drawn = film(**WIDGETS | {"seed": -1})
    assert len({comfy.run(drawn)["1"][2], comfy.run(drawn)["1"][2]}) == 2
    fixed = film(**WIDGETS)
    assert comfy.run(fixed)["1"][2] == comfy.run(fixed)["1"][2]
    assert comfy.run(film(**WIDGETS | {"seed": 8}))["1"][2] != comfy.run(fixed)["1"][2]


@pytest.mark.slow
def test_the_key_goes_to_the_server_of_the_environment_alone(
    comfy: Comfy, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGLIGHT_API_KEY", KEY)
    with serve(tmp_path, tiny, "--api-key", KEY, "--no-warm-up") as locked:
        monkeypatch.setenv("RINGLIGHT_URL", locked.url + "/")
        assert comfy.run(film(**WIDGETS))["1"][0].shape[0] == 5
        elsewhere = film(**WIDGETS, server=["3", 0]) | {
            "3": {"class_type": "RinglightServer", "inputs": {"url": f"{locked.url} "}}
        }
        assert comfy.run(elsewhere)["3"] == [f"{locked.url} "]
        monkeypatch.setenv("RINGLIGHT_URL", "http://127.0.0.1:1")
        with pytest.raises(Exception, match=f"RINGLIGHT_URL={locked.url} to have it sent there") as withheld:
            comfy.run(film(**WIDGETS | {"seed": 9}, server=["3", 0]) | {"3": elsewhere["3"]})
        assert KEY not in str(withheld.value)


@pytest.mark.slow
def test_loras_are_chained(comfy: Comfy, own: Served) -> None:
    def lora(name: str, **more: Any) -> dict[str, Any]:
        inputs = {"name": name, "strength": 0.5, "target": "as its name says"}
        return {"class_type": "RinglightLora", "inputs": inputs | more}

    workflow = film(**WIDGETS, loras=["4", 0]) | {
        "3": lora("style"),
        "4": lora("motion", target="high", loras=["3", 0]),
    }
    refused = own.http.post("/v1/videos", json=SMALL | {"lora": ["style:0.5", "motion:0.5:high"]}).json()["error"]
    with pytest.raises(ApiError) as caught:
        comfy.run(workflow)
    assert (str(caught.value), caught.value.param) == (refused["message"], "lora")
    workflow["4"] = lora(" ")
    assert list(comfy.problems(workflow)) == ["4"]


def test_widgets_are_made_of_the_declaration(comfy: Comfy) -> None:
    inputs = declared(comfy.nodes["RinglightTextToVideo"])
    declared_here = [field.name for field in VIDEO_FIELDS if field.name not in ("lora", "width", "height")]
    assert [*inputs] == ["prompt", "server", "loras", "width", "height", *declared_here]
    for field in VIDEO_FIELDS:
        if field.name != "lora":
            assert inputs[field.name][1]["tooltip"].startswith(field.help)
    found = comfy.problems(film(num_frames=-1, fps=241, sampler="ddim", seed="x"))
    assert sorted(each.rpartition(": ")[2].split(",")[0] for each in found["1"][:2]) == ["fps", "num_frames"]
    assert len(found["1"]) == 4
    assert comfy.problems(film(num_frames=49, sampler="euler", sigmas="1, 0.5")) == {}


def test_the_double_finds_what_is_wrong(comfy: Comfy) -> None:
    """Of a workflow, and of a class."""
    assert comfy.problems(film("RinglightPictureToVideo")) == {"1": ["Required input is missing: first_frame"]}
    linked = film(server=["1", 0])
    assert "RINGLIGHT_SERVER" in comfy.problems(linked)["1"][0]
    wrong = type("Wrong", (comfy.nodes["RinglightServer"],), {"RETURN_NAMES": ("a", "b")})
    with pytest.raises(AssertionError):
        comfy_double.check_class(wrong)
    wrong = type("Wrong", (comfy.nodes["RinglightServer"],), {"name": lambda self, address: (address,)})
    with pytest.raises(TypeError, match="address"):
        comfy_double.check_class(wrong)


def test_a_comfyui_without_videos_has_frames(tmp_path: Path) -> None:
    for comfy in load(tmp_path, has_videos=False):
        assert comfy.nodes["RinglightTextToVideo"].RETURN_TYPES == ("IMAGE", "FLOAT", "STRING")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_to_video", "picture_to_video"])
def test_the_example_workflows_run(name: str, comfy: Comfy, own: Served) -> None:
    workflow = json.loads((PACK / "example_workflows" / f"{name}.json").read_text())
    prompt = as_prompt(workflow, comfy.nodes)
    comfy_double.Picture.given = torch.zeros(1, 64, 64, 3)
    (film_node,) = (node for node in prompt.values() if "prompt" in node["inputs"])
    film_node["inputs"] |= WIDGETS
    assert KEY not in json.dumps(workflow)
    outputs = comfy.run(prompt)
    assert any(isinstance(each, Film) for given in outputs.values() for each in given)


def test_the_registry_can_read_the_pack() -> None:
    described = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert described["project"]["version"] == __version__
    assert "ringlight>=0.1,<0.2" in described["project"]["dependencies"]
    assert described["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName"}
