"""The pages on clusters: commands have flags that exist, and files that are named are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from ringlight.cli.main import app
from tests.docs.examples import examples_of
from tests.house.test_deploy import options

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/deploy").glob("*.md"))
OF_OTHERS = {  # of docker and kubectl, of Ray, of Slurm, of pip, hf and useradd
    *("--build-arg", "--from-file", "--force"),
    *("--head", "--address", "--port", "--num-cpus", "--node-ip-address", "--object-store-memory", "--min-nodes"),
    *("--nodes", "--nodelist", "--ntasks-per-node", "--gpus-per-node", "--partition", "--time", "--signal", "--wait"),
    *("--no-deps", "--exclude", "--system", "--home-dir"),
    *("--exclusive", "--requeue", "--kill-on-bad-exit", "--jobid", "--overlap"),
}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def commands(path: Path) -> Iterator[list[str]]:
    """Every command line of `ringlight` that a page shows, from its name on; also one that another program is given."""
    for example in examples_of(path):
        for line in example.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if example.language == "bash" else []
            script = next((word for word in words if word.endswith(".sbatch")), None)
            if script is not None:
                serve = ["serve"] if script.endswith("-ray.sbatch") else []
                yield ["ringlight", *serve, *words[words.index(script) + 1 :]]
            else:
                for begin, word in enumerate(words):
                    if word in ("ringlight", "ID=$(ringlight"):
                        line = [each.rstrip(")") for each in words[begin:]]
                        yield line[: line.index("&&")] if "&&" in line else line


def known_flags(words: list[str]) -> set[str]:
    """The flags of a command of `ringlight`, or of one below it."""
    command = typer.main.get_group(app)
    for word in words:
        found = getattr(command, "commands", {}).get(word)
        if found is None:
            break
        command = found
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_have_flags_that_exist(path: Path) -> None:
    found = list(commands(path))
    assert found
    for _, *words in found:
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known_flags(words), words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_flags_that_are_spoken_of_exist_and_so_do_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ours = (
        {flag for flags in options().values() for flag in flags} | known_flags(["doctor"]) | known_flags(["generate"])
    )
    ours |= known_flags(["jobs", "create"])
    assert set(FLAG.findall(text)) <= ours | OF_OTHERS
    named = re.findall(r"(?<![\w/])(?:deploy|tests)/[\w./-]*[\w/]", text)
    assert all((ROOT / name).exists() for name in named), named


def test_a_flag_that_is_misspelt_is_found() -> None:
    assert "--num-gpu" not in known_flags(["serve"]) | known_flags(["generate"])
    assert {"--num-gpus", "--model-path"} <= known_flags(["serve"]) & known_flags(["generate"])
    assert "--prompt" in known_flags(["jobs", "create"]) and "--host" not in known_flags(["jobs", "create"])


def test_every_page_says_how_to_begin_what_to_do_when_a_node_dies_and_how_versions_change() -> None:
    assert [path.stem for path in PAGES] == ["kubernetes", "machines", "ray", "slurm"]
    for path in PAGES:
        titles = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert any(title.endswith("o a first video") for title in titles), path
        assert "When a node dies" in titles and any("pgrades" in title for title in titles), path
