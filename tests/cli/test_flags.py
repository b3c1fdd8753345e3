"""A setting is declared once: a field of a struct is a flag, with its help, its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from ringlight.cli.flags import as_flags, with_flags
from ringlight.cli.main import app
from ringlight.core.config import EngineConfig, NodesConfig
from ringlight.core.fields import setting, settings_of
from ringlight.core.layout import AskedLayout
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.core.settings import ServeSettings
from ringlight.core.video_fields import AskedFields


class Lens(msgspec.Struct, frozen=True, kw_only=True):
    zoom: Annotated[float, setting("How near.", "Lens", ge=1)] = 1.0


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, setting("Its maker.")]
    film: Annotated[Literal["colour", "grey"], setting("What lies in it.", "Film")] = "colour"
    marks: Annotated[tuple[str, ...], setting("May be repeated.", "Film")] = ()
    keys: Annotated[tuple[str, ...], setting("Whole.", "Film", splits=False)] = ()
    stops: Annotated[tuple[float, ...] | None, setting("Of the aperture.", "Lens")] = None
    no_flash: Annotated[bool, setting("In the dark.", "Film")] = False
    speed: Annotated[int | None, setting("Of the film.", "Film", shown="what it says", short="s")] = None
    timer: Annotated[bool, setting("Waits.", "Film")] = True
    lens: Lens = Lens()
    hidden: int = 7


def given(*arguments: str, **how: object) -> tuple[int, str, Camera | None]:
    """What a command of a camera's flags is given: its exit code, what it prints, and the camera."""
    commands, seen = typer.Typer(), []

    @commands.command()
    @with_flags(camera=Camera, **how)  # type: ignore[arg-type]
    def shoot(camera: Camera, *, times: int = 1) -> None:
        seen.append(camera)

    done = CliRunner().invoke(commands, list(arguments))
    return done.exit_code, done.output, seen[0] if seen else None


def test_every_setting_is_a_flag() -> None:
    code, output, camera = given("--name", "Leica", "--times", "3")
    assert (code, camera) == (0, Camera(name="Leica")), output
    arguments = ["--film", "grey", "--marks", "a,b", "--marks", "c", "--keys", "a,b", "--no-flash", "--no-timer"]
    _, output, camera = given("--name", "Leica", *arguments, "--zoom", "2.5")
    assert given("--name", "Leica", "--stops", "1.4, 2,2.8")[2] == Camera(name="Leica", stops=(1.4, 2.0, 2.8))
    marks, keys = ("a", "b", "c"), ("a,b",)
    assert camera == Camera(
        name="Leica", film="grey", marks=marks, keys=keys, no_flash=True, timer=False, lens=Lens(zoom=2.5)
    ), output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--name"),
        (["--name", "a", "--film", "sepia"], "sepia"),
        (["--name", "a", "--zoom", "0.5"], "zoom"),
        (["--name", "a", "--hidden", "8"], "--hidden"),
        (["--name", "a", "--zom", "2"], "--zoom"),
        (["--name", "a", "--stops", "2,wide"], "'wide' is not a number"),
    ],
    ids=str,
)
def test_what_a_flag_cannot_be_is_told(arguments: list[str], words: str) -> None:
    code, output, camera = given(*arguments)
    assert code == 2 and words in output and camera is None


def test_help_is_said_with_the_field() -> None:
    _, output, _ = given("--help")
    assert given("--name", "a", "-s", "400")[2] == Camera(name="a", speed=400)
    for words in ("Its maker.", "what it says", "What lies in it.", "colour|grey", "How near.", "Film", "Lens"):
        assert words in output
    assert "--no-no-flash" not in output and "hidden" not in output


def test_a_command_may_have_some_of_them_and_other_defaults() -> None:
    _, _, camera = given(only=("film",), usual={"name": "Leica", "film": "grey"})
    assert camera == Camera(name="Leica", film="grey")
    assert given("--zoom", "2", only=("film",), usual={"name": "Leica"})[0] == 2
    _, _, camera = given(only={"camera": ("film",)}, usual={"camera.name": "Leica", "lens.name": "none"})
    assert camera == Camera(name="Leica")
    _, output, camera = given("--name", "a", without=("zoom",))
    assert camera == Camera(name="a"), output
    assert given("--name", "a", "--zoom", "2", without=("zoom",))[0] == 2


def test_as_flags_says_what_differs() -> None:
    engine = EngineConfig(model_path="demo", device="cpu", tf32=False, num_threads=2, num_slices=3)
    assert list(as_flags(engine, ("device", "tf32", "num_threads"))) == [
        "--device",
        "cpu",
        "--num-threads",
        "2",
        "--no-tf32",
    ]
    assert list(as_flags(EngineConfig(model_path="demo"), ("device", "tf32"))) == []
    several = EngineConfig(model_path="demo", lora=("a.safetensors:0.5", "b,c"))
    assert list(as_flags(several, ("lora", "lora_dir"))) == ["--lora", "a.safetensors:0.5", "--lora", "b,c"]
    ring = EngineConfig(model_path="demo", asked_layout=AskedLayout(ring_degree=2))
    assert list(as_flags(ring, ("ring_degree",))) == ["--ring-degree", "2"]


def test_no_two_settings_have_one_name() -> None:
    names = [field.name for kind in (EngineConfig, ServeSettings) for field in settings_of(kind)]
    assert len(set(names)) == len(names)
    assert {"nnodes", "ring_degree", "drain_timeout"} <= set(names)
    assert "refuses_alone" in NodesConfig.__struct_fields__ and "refuses_alone" not in names


def test_a_field_of_requests_is_declared_once() -> None:
    """What RequestDefaults declares is a field of a request, and a flag wherever one is asked for."""
    names = [field.name for field in settings_of(RequestDefaults)]
    assert names == list(RequestDefaults.__struct_fields__) == list(AskedFields.__struct_fields__)
    assert {*names, "prompt", "image", "last_image"} == set(VideoRequest.__struct_fields__)
    commands = typer.main.get_group(app).commands
    for command in (commands["generate"], commands["jobs"].commands["create"]):  # type: ignore[attr-defined]
        flags = {option.opts[0] for option in command.params}
        assert {f"--{name.replace('_', '-')}" for name in names} <= flags
