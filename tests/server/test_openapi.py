"""The description of the API is true: right and wrong requests made from it are answered as it says.

`benchmarks/fuzz.py` sends five thousand of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.hostile import OPTIONS, SMALL_VIDEOS, unharmed
from tests.server.served import Served, serve

KEY = "k" * 20
SEED = 20_261_124

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--api-key", f"alice:{KEY}", "--queue-size", 4, *OPTIONS)
    with serve(tmp_path_factory.mktemp("described"), tiny, *options, **SMALL_VIDEOS) as server:
        yield server


def test_requests_made_from_the_description(keyed_server: Served) -> None:
    from tests.server.fuzzing import fuzz  # schemathesis, which takes a second to import

    with unharmed(keyed_server):
        found = fuzz(keyed_server.url, KEY, SEED, 12, ("examples", "fuzzing", "stateful"))
    assert found.failures == []
    assert len(found.answers) > 200
    statuses = found.statuses()
    assert {200, 400, 401, 404} <= statuses.keys()
    calls = {answer.call for answer in found.answers}
    described = keyed_server.http.get("/openapi.json").json()["paths"]
    assert calls >= {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
