"""`ringlight models`: every model that can be run, with what a video of its defaults takes."""

from __future__ import annotations

import json

import pytest

from ringlight.families.table import MODELS
from tests.cli.commands import ringlight


@pytest.mark.slow
def test_every_model_is_listed_with_memory_and_seconds_or_what_would_do() -> None:
    done = ringlight("models", "--gpu", "rtx4060", "--memory-budget", "12.6GiB", "--json")
    listed = {each["name"]: each for each in json.loads(done.out)}
    assert listed.keys() == MODELS.keys()
    t2v, i2v = listed["Wan2.2-T2V-A14B"], listed["Wan2.2-I2V-A14B"]
    assert (t2v["video"], t2v["num_inference_steps"], t2v["begins_with"]) == ("1280x720x81", 40, "text")
    assert i2v["begins_with"] == "text and a first picture, or a last one too"
    assert listed["Wan2.1-I2V-14B-480P"]["begins_with"] == "text and a picture"
    assert t2v["weights_bytes"] > 2 * 14.288e9 * 2
    for each in listed.values():
        fits = each["layout"] is not None
        assert fits == (each["seconds"] is not None) == (each["peak_bytes"] is not None)
        assert fits or "would with --" in each["reason"]
    assert any(each["layout"] for each in listed.values()) and any(not each["layout"] for each in listed.values())


def test_this_machine_is_the_usual_one() -> None:
    done = ringlight("models")
    assert all(f"| {name} |" in done.out for name in MODELS)
    assert "as predicted" in done.out
