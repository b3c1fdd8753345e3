"""The tree of errors: stable codes, and the way through another process and back."""

from __future__ import annotations

import pytest

from ringlight.core import errors
from ringlight.core.errors import InvalidRequest, Problem, RinglightError, WorkerError, from_code

KINDS = [kind for kind in RinglightError.__subclasses__() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not InvalidRequest])
def test_an_error_comes_back_from_its_code(kind: type[RinglightError]) -> None:
    back = from_code(kind.code, "what went wrong")
    assert type(back) is kind
    assert str(back) == "what went wrong"


def test_an_invalid_request_comes_back_with_its_problems() -> None:
    problems = [Problem("height", "is odd", "704"), Problem("prompt", "is empty")]
    before = InvalidRequest(problems)
    back = from_code(before.code, str(before), problems)
    assert isinstance(back, InvalidRequest)
    assert back.problems == tuple(problems)
    assert str(back) == str(before) == "height: is odd (nearest: 704); prompt: is empty"


def test_an_invalid_request_without_problems_keeps_its_message() -> None:
    back = from_code(InvalidRequest.code, "too much")
    assert isinstance(back, InvalidRequest)
    assert "too much" in str(back)


@pytest.mark.parametrize("code", ["of_a_later_version", "", "error"])
def test_an_unknown_code_is_a_workers_failure(code: str) -> None:
    back = from_code(code, "something")
    assert type(back) is WorkerError
    assert str(back) == "something"


def test_codes_are_distinct_and_documented() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert errors.__doc__ is not None
    for kind in KINDS:
        assert f"{kind.__name__} " in errors.__doc__
        assert f"{kind.code} " in errors.__doc__


def test_a_problem_says_field_remedy_and_nearest() -> None:
    (problem,) = InvalidRequest.of("fps", "0 is too few", "1").problems
    assert str(problem) == "fps: 0 is too few (nearest: 1)"
    assert str(Problem("fps", "0 is too few")) == "fps: 0 is too few"
