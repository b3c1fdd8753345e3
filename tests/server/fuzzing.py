"""Requests that schemathesis makes from the server's own description, right ones and wrong ones, and what they find."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import schemathesis
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import Interaction, ScenarioRecorder

REQUEST_SECONDS = 30.0
PHASES = ("examples", "coverage", "fuzzing", "stateful")
EXPECTED = ["2xx", "3xx", "4xx", "501", "504"]
"""An edit is always 501, and a synchronous call whose timeout_seconds is over 504; both are documented."""
SLOW = ("/sync", "/events")
"""Calls that last as long as the video does."""


class Answered(NamedTuple):
    """One answer: which call, its HTTP status, and the seconds that it took."""

    call: str
    status: int
    seconds: float


class Findings(NamedTuple):
    """All answers, and in a line each what was wrong."""

    answers: list[Answered]
    failures: list[str]

    def statuses(self) -> dict[int, int]:
        """Answers by status."""
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    def seconds(self) -> list[float]:
        """How long answers took, from the shortest, without those that wait for a video."""
        return sorted(answer.seconds for answer in self.answers if not answer.call.endswith(SLOW))


def fuzz(url: str, key: str, seed: int, num_examples: int, phases: Collection[str] = PHASES) -> Findings:
    """Send what schemathesis makes of /openapi.json: `num_examples` of each call in the phases that draw at random.

    `key` is an API key of the server; schemathesis also leaves it out, and sends others.
    Its check that right requests are accepted is left out: a schema cannot say that width is a multiple of 32, or that
    a URL's host is not allowed.
    """
    told: dict[str, Any] = {
        "seed": seed,
        "headers": {"Authorization": f"Bearer {key}"},
        "cache": {"enabled": False},
        "continue-on-failure": True,
        "request-timeout": REQUEST_SECONDS,
        "generation": {"max-examples": num_examples, "no-shrink": True, "database": "none"},
        "phases": {phase: {"enabled": phase in phases} for phase in PHASES},
        "checks": {
            "not_a_server_error": {"expected-statuses": EXPECTED},
            "positive_data_acceptance": {"enabled": False},
        },
    }
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=schemathesis.Config.from_dict(told))
    answers: list[Answered] = []
    failures: list[str] = []
    for event in from_schema(schema).execute():
        match event:
            case events.NonFatalError():
                failures.append(f"{event.label}: {event.info.format()}")
            case events.FatalError():
                raise event.exception
            case events.ScenarioFinished():
                _look_at(event.recorder, answers, failures)
    return Findings(answers, failures)


def _look_at(recorder: ScenarioRecorder, answers: list[Answered], failures: list[str]) -> None:
    """Note what came back in one scenario."""
    for check in itertools.chain.from_iterable(recorder.checks.values()):
        if check.status is Status.FAILURE:
            failures.append(f"{recorder.label}: {check.name}: {check.failure_info and check.failure_info.failure}")
    for case_id, interaction in recorder.interactions.items():
        case = recorder.cases[case_id].value
        call, answer = f"{case.method} {case.operation.path}", interaction.response
        if answer is None:
            failures.append(f"{call}: no answer in {REQUEST_SECONDS:g} s")
            continue
        answers.append(Answered(call, answer.status_code, answer.elapsed))
        if problem := no_envelope(interaction):
            failures.append(f"{call}: {problem}")


def no_envelope(interaction: Interaction) -> str:
    """What is wrong with an answer, whatever was asked; empty where nothing is."""
    answer = interaction.response
    assert answer is not None
    if not answer.headers.get("x-request-id"):
        return f"{answer.status_code} without x-request-id"
    if answer.status_code < 400 or interaction.request.method == "HEAD":
        return ""
    try:
        error = json.loads(answer.content)["error"]
        is_whole = error.keys() == {"message", "type", "param", "code"} and error["message"] and error["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    return "" if is_whole else f"{answer.status_code} without the envelope: {answer.content[:200]!r}"
