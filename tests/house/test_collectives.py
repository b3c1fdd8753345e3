"""What all ranks have to call together is marked, up to whoever calls it: a rank that calls it alone hangs the group.

A call is recognised by name: of a function or class, of `self`, or of a receiver that is called as its class is
(`control` of Control, `group` of RankGroup).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[2] / "src" / "ringlight"
ROOMS = ("attention", "families", "kernels", "models", "parallel", "pipelines", "worker")
MARK = "collective"
ENDS = {  # call one whatever happens, and are none: nobody calls them
    "work": "the entry of every rank's process",
}
ORIGINS = {  # marked, and call no collective that is seen here
    "meet": "waits at a store",
    "HeldJob.go_on": "by way of the pipeline",
    "Worker._load": "by way of the pipeline",
    "warm_up": "by way of the pipeline",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A function, and the class that it is of, "" where it is of none."""

    owner: str
    function: Function

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.function.name}" if self.owner else self.function.name

    @property
    def is_marked(self) -> bool:
        return any(isinstance(each, ast.Name) and each.id == MARK for each in self.function.decorator_list)


def functions(text: str) -> Iterator[Found]:
    """All functions of a source but those within functions."""
    for node in ast.parse(text).body:
        if isinstance(node, Function):
            yield Found("", node)
        if isinstance(node, ast.ClassDef):
            yield from (Found(node.name, inner) for inner in node.body if isinstance(inner, Function))


def calls(node: ast.AST, certain: bool) -> Iterator[ast.Call]:
    """The calls within a function; `certain`: only those that are come to whatever a condition says."""
    if isinstance(node, ast.Call):
        yield node
    if certain and isinstance(node, (ast.If, ast.IfExp)):
        yield from calls(node.test, certain)
    elif certain and isinstance(node, ast.BoolOp):
        yield from calls(node.values[0], certain)
    elif certain and isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ExceptHandler, ast.match_case)):
        return
    else:
        for child in ast.iter_child_nodes(node):
            yield from calls(child, certain)


def certain_calls(found: Found) -> Iterator[ast.Call]:
    for statement in found.function.body:
        yield from calls(statement, certain=True)


def is_called_as(receiver: str, owner: str) -> bool:
    """Whether a name is what one of this class is called."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", owner).lower()
    plain = receiver.strip("_")
    return receiver == owner or (bool(plain) and f"_{snake}".endswith(f"_{plain}"))


def reaches(call: ast.Call, owner: str, marked: set[str]) -> bool:
    """Whether a call within a class `owner` is of a marked function."""
    match call.func:
        case ast.Name(name):
            return name in marked or f"{name}.__init__" in marked
        case ast.Attribute(ast.Name("self" | "cls"), name):
            return f"{owner}.{name}" in marked
        case ast.Attribute(ast.Name(receiver) | ast.Attribute(attr=receiver), name):
            classes = (each.partition(".")[0] for each in marked if each.endswith(f".{name}"))
            return any(is_called_as(receiver, each) for each in classes)
    return False


def unmarked(sources: Mapping[str, str]) -> set[str]:
    """Functions that call a marked one whatever happens, and are not marked."""
    every = [found for text in sources.values() for found in functions(text)]
    marked = {found.name for found in every if found.is_marked}
    return {
        found.name
        for found in every
        if not found.is_marked and any(reaches(call, found.owner, marked) for call in certain_calls(found))
    }


def marked_for_nothing(sources: Mapping[str, str]) -> set[str]:
    """Marked functions that call neither a marked one nor torch.distributed."""
    every = [found for text in sources.values() for found in functions(text)]
    marked = {found.name for found in every if found.is_marked}

    def is_one(found: Found) -> bool:
        texts = {ast.unparse(call.func) for call in calls(found.function, certain=False)}
        own = any(reaches(call, found.owner, marked) for call in calls(found.function, certain=False))
        return own or any(text.startswith("dist.") for text in texts)

    return {found.name for found in every if found.is_marked and not is_one(found)}


def workshop() -> dict[str, str]:
    paths = [path for room in ROOMS for path in sorted((SOURCE / room).rglob("*.py"))]
    return {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in paths}


def test_who_calls_a_collective_is_one() -> None:
    assert unmarked(workshop()) == ENDS.keys(), "mark it: @collective, of ringlight.parallel.collective"


def test_a_mark_stands_for_something() -> None:
    assert marked_for_nothing(workshop()) == ORIGINS.keys()


PLANTED = """
class Control:
    @collective
    def agree(self): dist.all_gather()
    def twice(self):
        if self.agree(): self.agree()
    def perhaps(self):
        if self.size: self.agree()
@collective
def together(control): control.agree(0)
def alone(control): return [control.agree(x) for x in range(3)]
def other(corridor): corridor.agree(0)
def later(control): return lambda: control.agree(0)
@collective
def never(control): ...
"""


def test_the_checks_can_fail() -> None:
    assert unmarked({"planted": PLANTED}) == {"Control.twice", "alone"}
    assert marked_for_nothing({"planted": PLANTED}) == {"never"}
    marks = "    @collective\n    def gather"
    without = {name: text.replace(marks, "    def gather") for name, text in workshop().items()}
    assert {"Control.gather", "SequenceShard.gather"} <= unmarked(without)
