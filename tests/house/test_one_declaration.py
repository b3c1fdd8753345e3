"""A field of a video is declared once: as docs/extend/field.md adds one to a copy, every door has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.docs.examples import examples_of
from tests.house.doors import WORKLOAD, read

ROOT = Path(__file__).parents[2]
DECLARATION = "ringlight/core/video_fields.py"
RECIPE = "ringlight/families/wan/recipe.py"
NAME, HELP, USUAL, VALUE = "sharpening", "How much edges are sharpened; 0 leaves them.", 0.0, 0.25
CHOSEN = "edges"
FIELD, USE, CHOICE = (each.text for each in examples_of(ROOT / "docs/extend/field.md"))
STAGE, _, _ = (each.text for each in examples_of(ROOT / "docs/extend/stage.md"))
OTHER_TYPE = '    mirrored: Annotated[bool, _field("Left is right.", VIDEO, "Mirrored")] = False\n'
IMPORT = "from ringlight.pipelines.stages.sharpening import sharpen\n"
DENOISING = 'latents = yield from tracer.timed_in_turns("Denoising", denoising)\n'


def run(source: Path, *arguments: object) -> str:
    """What a program says with this source."""
    environment = os.environ | {"PYTHONPATH": str(source), "COLUMNS": "200"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=source.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source whose declaration has one field more, and whose recipe uses it."""
    copy = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = (copy / DECLARATION).read_text()
    head, after, rest = before.partition("\n\nclass VideoFields(")
    assert after
    (copy / DECLARATION).write_text(head + textwrap.indent(FIELD + CHOICE, "    ") + after + rest)
    (copy / "ringlight/pipelines/stages/sharpening.py").write_text(STAGE)
    head, after, rest = (copy / RECIPE).read_text().partition(DENOISING)
    assert after
    first, _, others = head.partition("from ringlight.pipelines.stages.")
    (copy / RECIPE).write_text(
        f"{first}{IMPORT}from ringlight.pipelines.stages.{others}{after}{textwrap.indent(USE, ' ' * 8)}{rest}"
    )
    return copy


@pytest.fixture(scope="module")
def doors(source: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(source, ROOT / "tests/house/doors.py", NAME, VALUE, source.parent, CHOSEN))
    assert found["source"] == str(source / "ringlight")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "jobs create", "plan"])
def test_it_is_a_flag(doors: dict[str, Any], command: str) -> None:
    assert doors["flags"][command]["--sharpening"] == HELP


@pytest.mark.slow
@pytest.mark.parametrize("call", ["CreateVideo", "ExtendVideo"])
def test_a_call_has_it_with_its_bounds(doors: dict[str, Any], call: str) -> None:
    schema = doors["schemas"][call]
    assert (schema["description"], schema["minimum"], schema["maximum"]) == (HELP, 0, 1)
    assert {"type": "number"} in schema["anyOf"]


@pytest.mark.slow
def test_what_is_asked_becomes_a_request_or_is_refused(doors: dict[str, Any]) -> None:
    assert doors["asked"] == [VALUE, f"{NAME}: 2 is not between 0 and 1 (nearest: 1)"]


@pytest.mark.slow
def test_an_answer_has_it_and_the_client_reads_it(doors: dict[str, Any]) -> None:
    schema = doors["schemas"]["Video"]
    assert (schema["type"], schema["description"], doors["client"]) == ("number", HELP, VALUE)


@pytest.mark.slow
def test_workloads_and_mixes_have_it(doors: dict[str, Any], tmp_path: Path) -> None:
    *sent, with_it, without = doors["bench"]
    assert sent == [VALUE, VALUE] and with_it != without
    assert without == read(WORKLOAD, tmp_path).sha256  # results from before the field can still be compared
    assert NAME in doors["mix"]


@pytest.mark.slow
def test_the_page_is_told_of_it(doors: dict[str, Any]) -> None:
    """test_page.py shows that the form has what it is told of."""
    (card,) = doors["form"]
    assert card == {
        "name": NAME,
        "type": "number",
        "title": "Sharpening",
        "help": HELP,
        "group": "Sampling",
        "minimum": 0,
        "maximum": 1,
        "step": None,
        "default": USUAL,
        "default_rule": "",
        "choices": [],
    }


@pytest.mark.slow
def test_a_choice_is_held_to_its_values_and_may_be_left_open(doors: dict[str, Any]) -> None:
    choice = doors["choice"]
    assert choice["asked"] == ["strong", f"{CHOSEN}: there is none of this name, but all, strong (nearest: strong)"]
    assert choice["answer"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert [each["value"] for each in choice["form"]["choices"]] == ["all", "strong"]


@pytest.mark.slow
def test_a_field_of_another_type_is_refused_where_it_is_declared(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "src"
    shutil.copytree(source, copy)
    declared = (copy / DECLARATION).read_text()
    (copy / DECLARATION).write_text(declared.replace(textwrap.indent(FIELD, "    "), OTHER_TYPE))
    with pytest.raises(AssertionError, match=r"mirrored: a field of a video is one of int, float, str, .*take choices"):
        run(copy, "-c", "import ringlight.core.video_fields")


@pytest.mark.slow
def test_comfyui_has_a_widget_for_it(doors: dict[str, Any]) -> None:
    """A number below its bounds leaves it out."""
    kind, options = doors["widget"]
    assert (kind, options["min"], options["default"], options["max"]) == ("FLOAT", -1, -1, 1)
    assert options["tooltip"].startswith(HELP)


@pytest.mark.slow
def test_jobs_that_were_stored_before_it_are_read_with_its_default(doors: dict[str, Any]) -> None:
    assert doors["stored before"] == USUAL


@pytest.mark.slow
def test_tests_that_know_the_fields_pass_with_one_more(source: Path) -> None:
    files = ("bench/test_workload.py", "bench/test_variants.py", "core/test_request.py", "cli/test_plan.py")
    flags = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
    run(source, "-m", "pytest", *flags, *(ROOT / "tests" / file for file in files))


@pytest.mark.slow
def test_the_docs_have_it(source: Path) -> None:
    docs = source.parent / "docs"
    shutil.copytree(ROOT / "docs", docs)
    run(source, ROOT / "scripts/write_docs.py", "--docs", docs)
    assert (docs / "api.md").read_text().count(f"| `{NAME}` | number") == 3  # two calls and the answer
    assert f"| `{NAME}` | {USUAL} |" in (docs / "settings.md").read_text()


@pytest.mark.slow
def test_without_the_declaration_no_door_has_it(tmp_path: Path) -> None:
    doors = run(ROOT / "src", ROOT / "tests/house/doors.py", "fps", 2, tmp_path, "sampler")
    assert NAME not in doors


@pytest.mark.slow
def test_the_recipe_uses_it(source: Path, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    small = ("--size", "64x64", "--num-frames", 1, "--num-inference-steps", 1, "--report", report)
    asked = ("--model-path", tiny, "--prompt", "a boat", f"--{NAME}", VALUE)
    run(source, "-m", "ringlight", "generate", *asked, *small, "--output", tmp_path / "boat.npy")
    told = json.loads(report.read_bytes())
    names = [stage["name"] for stage in told["stages"]]
    assert told["workload"][NAME] == VALUE
    assert names.index("Denoising") < names.index("Sharpening") < names.index("Decoding")


def test_the_page_on_stages_says_which_line_comes_before_and_the_import() -> None:
    page = " ".join((ROOT / "docs/extend/stage.md").read_text().split())
    assert f"`{DENOISING.strip()}`" in page and f"`{IMPORT.strip()}`" in page
