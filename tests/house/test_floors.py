"""The floors of the house: who may import whom, how long a file may be, and that all of it is typed."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 400
HEAVY = ("torch", "diffusers", "transformers", "av")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT / "src" / "ringlight"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_nothing_imports_upward(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    assert "0 kept" not in done.stdout


def test_the_front_never_imports_torch() -> None:
    front = {"ringlight", "ringlight.cli.main", "ringlight.core.messages", "ringlight.server.app", "ringlight.client"}
    program = f"import sys, {', '.join(sorted(front))}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = set(done.stdout.split())
    assert front <= imported
    assert not imported & set(HEAVY)


def test_no_file_is_long() -> None:
    """Where one is, look for the second noun."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {relative(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_the_package_says_that_it_is_typed() -> None:
    assert files("ringlight").joinpath("py.typed").is_file()


def missing_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The parameters without an annotation, and "return" where that has none."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bare = [each.arg for each in parameters if each is not None and each.annotation is None]
    bare = [name for name in bare if name not in ("self", "cls")]
    return bare if function.returns is not None else [*bare, "return"]


def test_every_function_is_annotated() -> None:
    bare = {
        f"{relative(path)}:{node.lineno} {node.name}": missing_annotations(node)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {place: names for place, names in bare.items() if names} == {}


def test_every_file_says_what_it_is() -> None:
    assert [relative(path) for path in SOURCES if not ast.get_docstring(parsed(path))] == []


def test_the_checks_of_annotations_can_fail() -> None:
    (function,) = ast.parse("def f(a, *b, c: int, **d): ...").body
    assert isinstance(function, ast.FunctionDef)
    assert missing_annotations(function) == ["a", "b", "d", "return"]


def test_only_one_file_reads_the_environment_and_none_unpickles() -> None:
    """Settings are passed, not fetched (cli/diagnosis.py shows them), and weights never come as pickles."""
    readers, unpicklers = set(), set()
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                readers.add(relative(path))
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                if names & {"pickle", "dill", "joblib", "torch.load"}:
                    unpicklers.add(relative(path))
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                unpicklers.add(relative(path))
    assert readers <= {"core/config.py", "cli/diagnosis.py"}
    assert unpicklers == set()
