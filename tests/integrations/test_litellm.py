"""LiteLLM's own video calls, where LiteLLM is installed: it takes too long to import to stand among the tests' needs.

pip install litellm && pytest tests/integrations/test_litellm.py
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.docs.examples import examples_of
from tests.server.calling import png
from tests.server.served import NAMES, SMALL, Served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed; it is tried on demand"),
]
PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "other_programs.md"
REST = {name: value for name, value in SMALL.items() if name not in ("prompt", "size")}


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices
    return pytest.importorskip("litellm")


def order(litellm: Any, served: Served, **more: Any) -> Any:
    fields = {"prompt": SMALL["prompt"], "size": "64x64", "extra_body": REST} | more
    return litellm.video_generation(model=f"openai/{NAMES[0]}", **reached(served), **fields)


def reached(served: Served) -> dict[str, str]:
    return {"api_base": f"{served.url}/v1", "api_key": "any"}


def finished(litellm: Any, served: Served, video: Any) -> Any:
    """Asked after until it is over."""
    while (found := litellm.video_status(video_id=video.id, **reached(served))).status in ("queued", "in_progress"):
        pass
    assert found.status == "completed", found.error
    return found


def test_a_video_is_ordered_asked_after_and_fetched(litellm: Any, served: Served) -> None:
    video = order(litellm, served)
    assert (video.object, video.size, video.model) == ("video", "64x64", NAMES[0])
    assert finished(litellm, served, video).progress == 100
    content = litellm.video_content(video_id=video.id, **reached(served))
    newest = served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]
    assert content == served.http.get(f"/v1/videos/{newest['id']}/content").content
    assert litellm.video_content(video_id=video.id, variant="thumbnail", **reached(served))[8:12] == b"WEBP"
    assert (newest["seed"], newest["num_frames"]) == (SMALL["seed"], SMALL["num_frames"])
    assert len(litellm.video_list(custom_llm_provider="openai", limit=1, **reached(served))["data"]) == 1


def test_pictures_lists_and_remixes_arrive(litellm: Any, served: Served) -> None:
    video = finished(litellm, served, order(litellm, served, input_reference=png(64, 64)))
    newest = served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]
    assert newest["pictures"] == ["image"]
    assert litellm.video_remix(video_id=video.id, prompt="the sea", **reached(served)).status in (
        "queued",
        "in_progress",
    )
    with pytest.raises(litellm.BadRequestError, match="there is no LoRA style") as refused:
        order(litellm, served, extra_body=REST | {"lora": [{"name": "style", "strength": 0.5}, {"name": "motion"}]})
    assert "there is no LoRA motion" in str(refused.value)


def test_the_example_of_the_page_runs(
    litellm: Any, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (each for each in examples_of(PAGE, "## LiteLLM") if each.language == "python")
    exec(example.small(served.url, "").replace("openai/wan", f"openai/{NAMES[0]}"), {})
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"


def test_errors_are_the_servers_words(litellm: Any, served: Served) -> None:
    refused = served.http.post("/v1/videos", json=SMALL | {"size": "65x64"}).json()["error"]["message"]
    with pytest.raises(litellm.BadRequestError) as caught:
        order(litellm, served, size="65x64")
    assert refused in str(caught.value)
    with pytest.raises(litellm.NotFoundError, match="is not served"):
        litellm.video_generation(model="openai/other", prompt="a boat", **reached(served))
