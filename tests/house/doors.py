"""What each door knows of the fields of a video, as JSON on stdout. Run by test_one_declaration.py, with two sources.

python tests/house/doors.py FIELD VALUE FOLDER
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import msgspec
import typer.main
from fastapi import FastAPI

import ringlight
from ringlight.bench.workload import Usual, Workload, read_workload
from ringlight.cli.load_flags import MIX_FIELDS
from ringlight.cli.main import app as commands
from ringlight.client import Video
from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B as SPEC
from ringlight.server.api.calls import CreateVideo, parse
from ringlight.server.api.openapi import describe
from ringlight.server.api.routes import system, videos
from ringlight.server.http.body import Body
from ringlight.server.http.http_error import HttpError

COMFYUI = Path(__file__).parents[2] / "integrations" / "comfyui"
WORKLOAD = """
[[request]]
prompt = "a boat"
size = "64x64"
num_frames = 5
num_inference_steps = 3
guidance_scale = 5
"""


def flags(*names: str) -> dict[str, str]:
    """The flags of a command with their help."""
    command: Any = typer.main.get_group(commands)
    for name in names:
        command = command.commands[name]
    return {option.opts[0]: str(option.help) for option in command.params if hasattr(option, "help")}


def schemas() -> dict[str, Any]:
    """The schemas of the API."""
    app = FastAPI()
    for routes in (videos, system):
        app.include_router(routes.router)
    found: dict[str, Any] = describe(app, needs_key=True)["components"]["schemas"]
    return found


def asked(name: str, value: object) -> Any:
    """The value in the request that a form makes, or what is wrong with it."""
    fields = {"prompt": "a boat", "width": "64", "height": "64", "num_frames": "5", name: str(value)}
    try:
        call = parse(CreateVideo, Body(fields=fields, files={}, sha256=""))
        request = RequestDefaults().complete(call.prompt, SPEC, **call.asked())
        request.check(SPEC, RequestLimits())
    except (HttpError, InvalidRequest) as error:
        return str(error)
    return getattr(request, name)


def measured(name: str, value: float, folder: Path) -> Any:
    """What a workload's file sends, the request that it predicts, and the hashes with the field and without."""
    workload = read(f"{WORKLOAD}{name} = {value}\n", folder)
    sent = workload.round(1)[0].fields[name], getattr(workload.video_request(0, SPEC), name)
    return *sent, workload.sha256, read(WORKLOAD, folder).sha256


def read(workload: str, folder: Path) -> Workload:
    """The workload of a file."""
    (folder / "workload.toml").write_text(workload)
    return read_workload(folder / "workload.toml", Usual.of_checkpoint(RequestDefaults(), SPEC))


def of_choice(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """What doors say of a text with few values."""
    cards = system.field_cards(RequestDefaults(), SPEC, RequestLimits())
    return {
        "asked": [asked(name, "strong"), asked(name, "stronk")],
        "answer": described["Video"]["properties"][name],
        "form": next(msgspec.to_builtins(card) for card in cards if card.name == name),
    }


def main(name: str, value: float, folder: Path, chosen: str) -> None:
    """Print it."""
    described = schemas()
    old = msgspec.to_builtins(RequestDefaults().complete("a boat", SPEC))
    old.pop(name, None)
    answer = msgspec.json.decode(json.dumps({"id": "video_1", "status": "queued", name: value}), type=Video)
    found = {
        "source": str(Path(ringlight.__file__).parent),
        "flags": {"generate": flags("generate"), "jobs create": flags("jobs", "create"), "plan": flags("plan")},
        "mix": MIX_FIELDS.split(", "),
        "schemas": {each: described[each]["properties"].get(name) for each in ("CreateVideo", "ExtendVideo", "Video")},
        "asked": [asked(name, value), asked(name, 2)],
        "client": getattr(answer, name, None),
        "bench": measured(name, value, folder),
        "form": [
            msgspec.to_builtins(card)
            for card in system.field_cards(RequestDefaults(), SPEC, RequestLimits())
            if card.name == name
        ],
        "choice": of_choice(chosen, described),
        "widget": runpy.run_path(str(COMFYUI / "widgets.py"))["widgets"]().get(name),
        "stored before": getattr(msgspec.convert(old, VideoRequest), name, None),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
