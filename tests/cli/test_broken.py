"""Installations of which a part is missing or broken: what is said, and that nothing is a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringlight.cli.diagnosis import BASE, WORKER, Finding, Requirement, problems_of, requirements, satisfies
from ringlight.core import installation
from tests.cli.commands import TIMEOUT_SECONDS, Done

HIDE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing())
"""


def run(folder: Path, *arguments: object, as_module: bool = False) -> Done:
    """A command, with a folder before all others that modules are taken from."""
    script = ["-m", "ringlight"] if as_module else [str(Path(sys.executable).with_name("ringlight"))]
    done = subprocess.run(
        [sys.executable, *script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert "Traceback" not in done.stdout + done.stderr, done
    return Done(done.returncode, done.stdout, done.stderr)


def without(folder: Path, *packages: str) -> Path:
    """As if packages were not there."""
    (folder / "sitecustomize.py").write_text(HIDE.format(names=packages))
    return folder


def broken(folder: Path, package: str, text: str) -> Path:
    """A package that cannot be imported."""
    (folder / f"{package}.py").write_text(text)
    return folder


@pytest.mark.parametrize("as_module", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("package", ["typer", *[pytest.param(name, marks=pytest.mark.slow) for name in ("msgspec",)]])
def test_without_what_every_command_needs_there_is_one_line(tmp_path: Path, package: str, as_module: bool) -> None:
    done = run(without(tmp_path, package), "serve", "--help", as_module=as_module)
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        f"ringlight: this installation is broken: No module named '{package}'; see `ringlight doctor`\n"
    )


@pytest.mark.slow
def test_random_weights_with_a_broken_torch_are_one_line(tmp_path: Path) -> None:
    broken(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open')")
    done = run(tmp_path, "demo-checkpoint", tmp_path / "demo", "--size", "tiny")
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "libcudart.so.13: cannot open" in done.err and "ringlight doctor" in done.err


def diagnosed(folder: Path) -> dict[str, Finding]:
    """What the doctor finds to be broken, by the package that it blames."""
    done = run(folder, "doctor", "--json")
    assert done.code == 3, done
    problems = [Finding(**each) for each in json.loads(done.out)["problems"]]
    return {problem.what.partition(":")[0]: problem for problem in problems}


@pytest.mark.slow
def test_doctor_names_all_that_is_broken_and_how_to_mend_it(tmp_path: Path) -> None:
    """Whatever is wrong with a package, it is named, and not those that import it."""
    without(tmp_path, "av", "msgspec")
    broken(tmp_path, "torch", "raise OSError('libcudart.so.13: cannot open')")
    broken(tmp_path, "numpy", "raise ImportError('\\nIMPORTANT\\nnumpy.core failed to import')")
    problems = diagnosed(tmp_path)
    assert problems.keys() == {"torch", "numpy", "av", "msgspec"}
    for package, what, remedy in (
        ("torch", "OSError: libcudart.so.13: cannot open", "'torch"),
        ("numpy", "failed to import", "'numpy"),
        ("av", "No module named 'av'", "'av>=14'"),
        ("msgspec", "No module named 'msgspec'", "'msgspec>="),
    ):
        assert what in problems[package].what and remedy in problems[package].remedy, problems


@pytest.mark.slow
def test_doctor_names_what_ends_its_process(tmp_path: Path) -> None:
    """In words for people."""
    done = run(broken(tmp_path, "torch", "import os; os.abort()"), "doctor")
    assert done.code == 3, done
    assert "\n  torch: importing it ends the process (Aborted)" in done.out
    assert done.out.endswith("\n    mend it: install that package anew\n")


@pytest.mark.slow
def test_doctor_of_a_cluster_says_where_ray_is_missing(tmp_path: Path) -> None:
    done = run(without(tmp_path, "ray"), "doctor", "--engine", "ray", "--json")
    (problem,) = json.loads(done.out)["problems"]
    assert done.code == 3
    assert problem["what"] == "ray: cannot be imported (No module named 'ray')"
    assert problem["remedy"] == "pip install 'ringlight[ray]'"


@pytest.mark.parametrize(
    ("found", "versions", "is_right"),
    [
        ("2.13.0+cpu", ">=2.8,<3", True),
        ("2.8", ">=2.8,<3", True),
        ("2.7.1", ">=2.8,<3", False),
        ("3.0.0", ">=2.8,<3", False),
        ("0.42.0", "<0.43,>=0.42.1", False),
        ("0.42.1", "<0.43,>=0.42.1", True),
        ("10.0", ">=9", True),
        ("3.54.0", "==3.54.0", True),
        ("1", "", True),
    ],
)
def test_versions(found: str, versions: str, is_right: bool) -> None:
    assert satisfies(found, versions) is is_right


def test_what_is_needed_is_read_from_the_package_itself() -> None:
    of_all = {requirement.name: requirement for requirement in requirements() if requirement.extra == BASE}
    assert {"av", "msgspec", "typer", "pillow", "sqlalchemy"} <= of_all.keys()
    assert not of_all.keys() & {"torch", "tokenizers", "pytest", "matplotlib", "psycopg", "diffusers"}
    assert of_all["pillow"].module == "PIL" and of_all["python-multipart"].module == "python_multipart"


def test_what_is_looked_for_before_a_worker_starts_is_what_its_extra_and_all_installations_bring() -> None:
    of_worker = {requirement.module for requirement in requirements() if requirement.extra == WORKER}
    of_all = {requirement.module for requirement in requirements() if requirement.extra == BASE}
    assert of_worker == set(installation.WORKER)
    assert set(installation.WORKSHOP) - of_worker <= of_all


def test_a_requirement_says_its_remedy() -> None:
    assert Requirement("torch", ">=2.8").remedy == "pip install --force-reinstall 'torch>=2.8'"


@pytest.mark.parametrize(("cudnn", "is_wrong"), [(91002, True), (91501, False), (None, False)])
def test_convolutions_that_are_known_to_be_wrong_are_told(cudnn: int | None, is_wrong: bool) -> None:
    found = list(problems_of([], {}, {"codecs": {}, "torch": {"cudnn": cudnn, "gloo": True}}))
    assert [problem.what.startswith("torch: cuDNN 9.10.2 can compute the VAE wrong") for problem in found] == (
        [True] * is_wrong
    )
    assert all("torch 2.10" in problem.remedy for problem in found)
