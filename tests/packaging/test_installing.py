"""The wheel in empty environments: what it does alone, what it says that it cannot, and what each extra adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ringlight
from tests.packaging.environments import Environment, Installer, Said, settings_of_pip

# Run there: commands one after another in one process, for each has the same to import.
COMMANDS = """
import contextlib, io, json, sys
from ringlight.cli.main import main

told = []
for arguments in json.loads(sys.argv[1]):
    out, err, sys.argv = io.StringIO(), io.StringIO(), ["ringlight", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            told.append((int(leaving.code or 0), out.getvalue(), err.getvalue()))
assert "torch" not in sys.modules
print(json.dumps(told))
"""
NAMES = """
import ringlight
from ringlight.core.errors import InvalidInstallation

for name in ringlight.__all__:
    getattr(ringlight, name)
try:
    ringlight.Engine(ringlight.EngineConfig(model_path="/nowhere"))
except InvalidInstallation as error:
    print(error)
"""
# What is asked of the code that needs an extra: where it is missing, that is said with what brings it.
FEATURES = {
    "postgres": """
from ringlight.server.collection.database import check_url
check_url("postgresql+psycopg://user@host/name")
""",
    "otel": """
from ringlight.server.observability.tracing import check_endpoint
check_endpoint("http://127.0.0.1:4318")
""",
    "object-store": """
from ringlight.server.collection.media import MediaStore
MediaStore.open("s3://bucket/prefix")
""",
    "gguf": """
from pathlib import Path
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.gguf_file import read_gguf
try:
    read_gguf(Path("nowhere.gguf"))
except InvalidCheckpoint:
    pass
""",
    "heic": """
from ringlight.core.errors import InvalidRequest
from ringlight.core.picture import open_picture
from ringlight.core.request import RequestLimits
try:
    open_picture(bytes(4) + b"ftypheic" + bytes(4) + b"heicmif1", RequestLimits())
except InvalidRequest as error:
    assert "damaged" in str(error), error
""",
    "ray": """
from ringlight.core.cluster import ClusterConfig
from ringlight.core.config import EngineConfig
from ringlight.engine.site import check_installed
check_installed(EngineConfig(model_path="nowhere", cluster=ClusterConfig(engine="ray")))
import ringlight.engine.launch.ray.site
""",
    "bench": """
from ringlight.bench import plots
assert plots.can_draw(), "pip install 'ringlight[bench]'"
""",
}
ALL_FEATURES = """
import json, sys

told = {}
for name, program in json.loads(sys.argv[1]).items():
    try:
        exec(program, {})
    except Exception as error:
        told[name] = str(error)
print(json.dumps(told))
"""
ADD_WORKER = "`pip install 'ringlight[worker]'` there adds what computes (a torch that is there is kept"
SMALLEST = ("--width", 128, "--height", 96, "--num-frames", 5, "--num-inference-steps", 1)


@pytest.fixture(scope="module")
def base(installer: Installer) -> Environment:
    return installer.install()


def told(environment: Environment, *commands: list[object]) -> list[Said]:
    """What commands of the front leave, run there."""
    done = environment.run("python", "-c", COMMANDS, json.dumps([[str(each) for each in one] for one in commands]))
    assert done.code == 0, done.err
    return [Said(*each) for each in json.loads(done.out)]


@pytest.mark.slow
def test_the_front_does_alone_what_needs_no_rank(base: Environment, tmp_path: Path) -> None:
    assert base.run("ringlight", "--version") == (0, f"ringlight {ringlight.__version__}\n", "")
    help_, plan, models, doctor, film, jobs = told(
        base,
        ["--help"],
        ["plan", "--gpu", "rtx4090", "--num-gpus", 2],
        ["models", "--gpu", "rtx4090", "--json"],
        ["doctor", "--json"],
        ["demo-checkpoint", tmp_path / "film"],
        ["jobs", "ls", "--url", "http://127.0.0.1:1"],
    )
    assert help_.code == plan.code == models.code == film.code == 0, (help_, plan, models, film)
    assert "demo-checkpoint" in help_.out and "Wan2.2-TI2V-5B" in plan.out and json.loads(models.out)
    assert (tmp_path / "film" / "model_index.json").exists()
    assert jobs.code not in (0, 3) and "http://127.0.0.1:1" in jobs.err
    facts = json.loads(doctor.out)
    assert (doctor.code, facts["problems"]) == (0, [])
    assert facts["packages"]["torch"] == "not installed" and facts["packages"]["av"] != "not installed"
    assert facts["extras"]["worker"] == "not installed; pip install 'ringlight[worker]'"
    assert facts["extras"].keys() == {"worker", "diffusers", *FEATURES}


@pytest.mark.slow
def test_what_computes_says_in_one_line_what_is_missing_before_anything_is_written(
    base: Environment, tiny: Path, tmp_path: Path
) -> None:
    new, prompt, model = tmp_path / "new", ["--prompt", "a red ball"], ["--model-path", tiny]
    for refused in told(
        base,
        ["generate", *model, *prompt, "--output", new],
        ["serve", *model, "--data-dir", new],
        ["bench", *model, "--layouts", "u1r1", "--output", new],
        ["demo-checkpoint", new, "--size", "tiny"],
        ["convert", tiny, new],
    ):
        assert (refused.code, refused.out, refused.err.count("\n")) == (3, "", 1), refused
        assert refused.err.startswith("ringlight: invalid_installation: torch, tokenizers, safetensors, ftfy are not")
        assert ADD_WORKER in refused.err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_every_public_name_is_there_without_the_worker_and_an_engine_of_this_machine_says_what_it_needs(
    base: Environment,
) -> None:
    done = base.run("python", "-c", NAMES)
    assert done.code == 0 and ADD_WORKER in done.out, done


@pytest.mark.slow
def test_what_needs_an_extra_says_which(base: Environment) -> None:
    done = base.run("python", "-c", ALL_FEATURES, json.dumps(FEATURES))
    said = json.loads(done.out)
    assert said.keys() == FEATURES.keys()
    assert [extra for extra in FEATURES if f"pip install 'ringlight[{extra}]'" not in said[extra]] == []


@pytest.mark.slow
@pytest.mark.parametrize("extra", FEATURES)
def test_an_extra_adds_what_it_is_for_and_nothing_that_computes(installer: Installer, extra: str) -> None:
    done = installer.install(extra).run("python", "-c", FEATURES[extra] + "import sys; print('torch' in sys.modules)")
    assert (done.code, done.out) == (0, "False\n"), done.err


@pytest.mark.slow
def test_the_worker_makes_a_video(installer: Installer, tiny: Path, tmp_path: Path) -> None:
    film = tmp_path / "ball.mp4"
    command = ["generate", "--model-path", tiny, "--prompt", "a ball", "--output", film, *SMALLEST, "--quiet"]
    made = installer.install("worker").run("ringlight", *command)
    assert made.code == 0, made.err
    assert film.read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
def test_schedulers_of_diffusers_come_with_the_worker(installer: Installer) -> None:
    """Not imported here, which takes longer than the rest; the tests of samplers do."""
    there = installer.install("diffusers").programs.parent
    packages = {path.name for path in there.glob("lib/*/site-packages/*") if path.is_dir()}
    assert {"diffusers", "torch", "tokenizers", "safetensors", "ftfy"} <= packages


def test_what_pip_is_told_is_told_to_uv() -> None:
    listed = (
        ":env:.find-links='/wheels /more'\nglobal.constraint='/pins.txt'\n"
        "global.find-links='/other'\nglobal.extra-index-url='\\nfile:///a\\nfile:///b'\nglobal.timeout='60'\n"
    )
    assert settings_of_pip(listed) == {
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_CONSTRAINT": "/pins.txt",
        "UV_INDEX": "file:///a file:///b",
    }
