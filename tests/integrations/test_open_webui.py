"""The tool for Open WebUI, loaded and called as Open WebUI does it, with films of a real server.

Open WebUI is too large to install beside the tests. What is held here is its contract with tools, as its documentation
and its source (0.12.4) have it: the file is read as text and run in a module that is gone afterwards; a model is told
of each method what its annotations and docstring say; a result is shown where it is an HTML page to be shown inline.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import re
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from fastapi.responses import HTMLResponse

from ringlight import __version__
from ringlight.client import ApiError
from ringlight.core.errors import RinglightError
from tests.engine.processes import wait_until
from tests.server.calling import data_url, png
from tests.server.served import LONG, SMALL, Served

TOOL = Path(__file__).parents[2] / "integrations" / "open_webui" / "ringlight_video.py"
NO_DATA = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}]
Said = list[dict[str, Any]]


def loaded() -> Any:
    """As its load_tool_module_by_id has it."""
    module = types.ModuleType("tool_ringlight")
    sys.modules[module.__name__] = module
    try:
        exec(TOOL.read_text(), vars(module))
        return module.Tools()
    finally:
        del sys.modules[module.__name__]


def functions_of(tools: Any) -> dict[str, Callable[..., Awaitable[Any]]]:
    """What a model may call: as its get_functions_from_tool has it."""
    found = {name: getattr(tools, name) for name in dir(tools) if not name.startswith("_")}
    return {name: each for name, each in found.items() if callable(each) and not inspect.isclass(each)}


def call(tools: Any, name: str, said: Said, **arguments: Any) -> Any:
    """A call of a model, with what Open WebUI adds to it."""

    async def emit(event: dict[str, Any]) -> None:
        said.append(event)

    function = functions_of(tools)[name]
    extra = {"__event_emitter__": emit, "__messages__": [], "__user__": {}} | arguments
    return asyncio.run(
        function(**{key: v for key, v in extra.items() if key in inspect.signature(function).parameters})
    )


@pytest.fixture
def tools(served: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool, set by an administrator."""
    monkeypatch.delenv("RINGLIGHT_API_KEY", raising=False)
    made = loaded()
    rest = {name: value for name, value in SMALL.items() if name != "prompt"}
    made.valves = made.Valves(url=served.url, fields=str(rest).replace("'", '"'))
    return made


def test_the_file_says_what_it_is() -> None:
    head = re.match(r'"""\n(.*?)"""', TOOL.read_text(), re.DOTALL)
    assert head is not None
    described = dict(re.findall(r"^\s*([a-z_]+):\s*(.*)\s*$", head[1], re.MULTILINE))
    assert described["version"] == __version__ and {"title", "description", "author"} < described.keys()
    assert not re.search(r"from (utils|apps|main|config)", TOOL.read_text())  # these it replaces, wherever they stand


def test_a_model_is_told_of_each_argument() -> None:
    functions = functions_of(loaded())
    assert [*functions] == ["make_video", "make_video_of_picture"]
    for function in functions.values():
        asked = {name for name in inspect.signature(function).parameters if not name.startswith("__")}
        assert asked == {"prompt", "seconds"} == set(re.findall(r":param (\w+): ", inspect.getdoc(function) or ""))
        assert get_type_hints(function)["seconds"] == float | None
    assert loaded().Valves.model_json_schema()["properties"]["api_key"]["input"] == {"type": "password"}


@pytest.mark.slow
def test_a_video_is_shown(tools: Any, served: Served) -> None:
    said: Said = []
    page, context = call(tools, "make_video", said, prompt=SMALL["prompt"])
    assert isinstance(page, HTMLResponse) and "inline" in page.headers["content-disposition"]
    video = served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]
    (content,) = re.findall(rb"data:video/mp4;base64,([^\"]+)", bytes(page.body))
    assert base64.b64decode(content) == served.http.get(f"/v1/videos/{video['id']}/content").content
    assert context == "The video is shown to the user: 64x64, 0.208333 s, seed 7."
    assert all(event["type"] == "status" for event in said)
    assert [event["data"]["done"] for event in said].count(True) == 1 and said[-1]["data"]["done"]


@pytest.mark.slow
def test_it_begins_with_the_newest_picture(tools: Any, served: Served) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png())}}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "let it move"}]}]
    call(tools, "make_video_of_picture", [], prompt="it moves", seconds=0.2, __messages__=[*messages, *NO_DATA])
    assert served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]["pictures"] == ["image"]
    with pytest.raises(RinglightError, match="no picture"):
        call(tools, "make_video_of_picture", [], prompt="it moves", __messages__=NO_DATA)


@pytest.mark.slow
def test_errors_are_the_servers_words(tools: Any, served: Served) -> None:
    refused = served.http.post("/v1/videos", json=SMALL | {"prompt": ""}).json()["error"]["message"]
    said: Said = []
    with pytest.raises(ApiError, match=re.escape(refused)):
        call(tools, "make_video", said, prompt="")
    assert said == [{"type": "status", "data": {"description": refused, "done": True}}]


@pytest.mark.slow
def test_whoever_stops_the_answer_cancels_the_video(tools: Any, served: Served) -> None:
    steps = f'"num_inference_steps": {LONG["num_inference_steps"]}'
    tools.valves.fields = tools.valves.fields.replace('"num_inference_steps": 2', steps)

    async def stop_it() -> str:
        begun = asyncio.Event()

        async def emit(event: dict[str, Any]) -> None:
            begun.set()

        task = asyncio.create_task(tools.make_video(SMALL["prompt"], __event_emitter__=emit))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return str(served.http.get("/v1/videos", params={"limit": 1}).json()["data"][0]["id"])

    video_id = asyncio.run(stop_it())
    wait_until(lambda: served.get(video_id)["status"] == "failed")
    assert served.get(video_id)["error"]["code"] == "cancelled"
