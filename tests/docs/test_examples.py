"""The examples of the pages do what they say: they are run, against a real server."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ringlight.server.safety.webhooks import SECRET_PREFIX, sign
from tests.cli.commands import here, ringlight
from tests.docs.examples import URL, Example, examples_of, run
from tests.server.objects import OPERATOR
from tests.server.served import NOBODY, Served

pytestmark = pytest.mark.slow  # a real server, or several processes


ROOT = Path(__file__).parents[2]
API = examples_of(ROOT / "docs/api.md")
BATCHES = examples_of(ROOT / "docs/batches.md")
SERVE = examples_of(ROOT / "docs/serving.md")
WORKLOADS = examples_of(ROOT / "docs/workloads.md")
TUTORIAL = examples_of(ROOT / "docs/tutorial.md")
ALREADY_HERE = ("ringlight doctor", "ringlight demo-checkpoint demo")
PAGES = [
    *(
        example
        for name in (
            "operations",
            "samplers",
            "security",
            "moving",
            "serving",
            "deploy/machines",
            "how_to/other_programs",
        )
        for example in examples_of(ROOT / f"docs/{name}.md")
    ),
    *examples_of(ROOT / "README.md"),
]
NOT_DONE = ("/v1/videos/edits", "/v1/videos/characters", "/v1/videos/characters/{character_id}")
COMMAND = "ringlight serve "
TOOLS = ("bash", "curl", "jq", "base64")
missing = [tool for tool in TOOLS if shutil.which(tool) is None]


def runnable(examples: list[Example], language: str) -> list[Any]:
    return [
        pytest.param(each, id=f"{each.path.stem}-{each.line}")
        for each in examples
        if each.language == language and COMMAND not in each.text
    ]


def run_example(example: Example, served: Served, folder: Path, photograph: Path) -> str:
    """Run one beside a photograph; where it names a video, with one that has been made."""
    shutil.copy(photograph, folder / "keeper.jpg")
    video_id = served.completed()["id"] if example.needs_id else ""
    where = f"export RINGLIGHT_URL={served.url}\n" if example.language == "bash" else ""
    return run(example.language, where + example.small(served.url, video_id), folder)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"the examples need {', '.join(missing)}")
@pytest.mark.parametrize("example", runnable([*API, *BATCHES, *SERVE], "bash"))
def test_commands(example: Example, served: Served, tmp_path: Path, photograph: Path) -> None:
    out = run_example(example, served, tmp_path, photograph)
    assert '"error":{' not in out.replace(" ", ""), out
    for name in ("boat.mp4", "whale.mp4", "ball.mp4"):
        if name in example.text:
            assert (tmp_path / name).read_bytes()[4:8] == b"ftyp"


@pytest.mark.skipif(bool(missing), reason=f"the examples need {', '.join(missing)}")
@pytest.mark.parametrize("examples", [API, SERVE], ids=["api", "serving"])
def test_waiting_for_a_video_ends_where_it_is_refused(
    examples: list[Example], served: Served, tmp_path: Path, photograph: Path
) -> None:
    """With what the server says of it, and without asking for what is not there for ever."""
    (example,) = (each for each in examples if "until curl" in each.text)
    refused = example._replace(text=example.text.replace("-F seconds=5", "-F seconds=-5"))
    with pytest.raises(AssertionError, match=r"jq: error .*: seconds"):
        run_example(refused, served, tmp_path, photograph)
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize("example", runnable([*API, *SERVE], "python"))
def test_python(example: Example, served: Served, tmp_path: Path, photograph: Path) -> None:
    out = run_example(example, served, tmp_path, photograph)
    assert "failed" not in out
    for name in ("boat.mp4", "keeper.mp4"):
        if f'"{name}"' in example.text:
            assert (tmp_path / name).read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
def test_the_workload_that_is_shown(served: Served, tmp_path: Path, photograph: Path) -> None:
    """Its file is measured by its command."""
    examples = {each.language: each.small(served.url, "") for each in WORKLOADS}
    shutil.copy(photograph, tmp_path / "keeper.jpg")
    (tmp_path / "clips.toml").write_text(examples["toml"])
    out = run("bash", examples["bash"], tmp_path)
    assert "two clips: A clip of text, and one of a picture" in out and "half the steps" in out
    assert "requests failed" not in out and "| Completed | 4 | 4 |" in out


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"the examples need {', '.join(missing)}")
def test_the_tutorial_works_as_it_is_typed(served: Served, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(tiny)
    lines = [each.text for each in TUTORIAL if each.language == "bash" and each.text.strip() not in ALREADY_HERE]
    typed = "".join(lines).replace(URL, served.url)
    out = run("bash", f"export RINGLIGHT_URL={served.url}\n{typed}", tmp_path)
    films = [
        tmp_path / name for name in ("ball.mp4", "cone.mp4", "falls.mp4", "films/ball.mp4", "films/prompts-0003.mp4")
    ]
    assert all(film.read_bytes()[4:8] == b"ftyp" for film in films)
    assert "3 completed; 3 files in films" in out
    assert "chosen: " in out


def test_an_example_that_fails_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit 3"):
        run("bash", "exit 3", tmp_path)
    with pytest.raises(AssertionError, match="NameError"):
        run("python", "nothing", tmp_path)


def test_all_calls_have_an_example(served: Served) -> None:
    text = "".join(example.text for example in API)
    for path in served.http.get("/openapi.json").json()["paths"]:
        if path.startswith("/v1/videos/") and path not in NOT_DONE:
            assert path.replace("/v1/videos/{video_id}", "").removeprefix("/v1/videos") in text, path


def test_the_error_that_is_shown_is_the_one_that_is_answered(served: Served) -> None:
    (shown,) = (json.loads(example.text) for example in API if example.language == "json")
    answer = served.http.post("/v1/videos", json={"prompt": "a boat", "size": "1000x704"})
    assert answer.status_code == 400
    assert answer.json() == shown


def test_the_page_is_right_about_a_video_of_somebody_else(served: Served) -> None:
    assert served.http.get(f"/v1/videos/{NOBODY}").status_code == 404


def commands() -> list[Any]:
    """Every `ringlight serve` that a page shows."""
    found: list[Any] = []
    for example in PAGES:
        for line in example.text.replace("\\\n", " ").splitlines():
            if line.startswith(COMMAND) and "--node-rank 1" not in line:  # that one hosts ranks, and has no dry run
                found.append(pytest.param(line, id=f"{example.path.stem}-{example.line}-{len(found)}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_servers_could_be_started_so(line: str, tiny: Path, tmp_path: Path) -> None:
    """With the checkpoint and the folder that are here, and without being started."""
    arguments = shlex.split(line, comments=True)[1:]
    path = str(tiny)
    given = [
        path if before == "--model-path" else each for before, each in zip(["", *arguments], arguments, strict=False)
    ]
    given = [path if each == "..." else each for each in given]
    if path in given and "--model-path" not in given:
        given.insert(given.index(path), "--model-path")
    data = tmp_path / "data"
    given = [str(data) if before == "--data-dir" else each for before, each in zip(["", *given], given, strict=False)]
    given += [] if "--dry-run" in given else ["--dry-run"]
    if "--media-url" in given:  # in a process of its own, which may use obstore and never be forked again
        done = ringlight(*given, folder=tmp_path, environment=os.environ | OPERATOR)
    else:
        done = here(*given, folder=tmp_path)
    assert done.code == 0, done.err
    assert "layout " in done.out


def test_the_webhook_that_the_page_verifies_is_ours() -> None:
    (example,) = (each for each in examples_of(ROOT / "docs/security.md") if each.language == "python")
    names: dict[str, Any] = {}
    exec(example.text, names)  # the page's own lines
    is_ours = names["is_ours"]
    secret, body, now = f"{SECRET_PREFIX}{'QUFB' * 8}", b'{"type": "video.completed"}', int(time.time())
    headers = sign(b"AAA" * 8, "evt_1", now, body)
    assert is_ours(secret + "\n", headers, body)
    assert not is_ours(secret, headers, body + b" ")
    assert not is_ours(f"{SECRET_PREFIX}{'QUFC' * 8}", headers, body)
    assert not is_ours(secret, sign(b"AAA" * 8, "evt_1", now - 3600, body), body)
