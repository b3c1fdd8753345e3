"""What it is worth that a film makes way for a clip, and what it costs: every promise with what was measured.

    python benchmarks/turns.py [--part bytes amid cost trace] [--output benchmarks/results/turns]
    python benchmarks/turns.py --self-test

Two ranks with a thread each, on a CPU, and the tiny demo checkpoint. `bytes`: films that were paused are the same file.
`amid`: clips that come while films run back to back. `cost`: of a pause. `trace`: the same arrivals under several
orders, and the simulation of `ringlight plan` fed with their measured seconds. Results are added to those of other
parts of the same `--output`, each with its own conditions. The exit code is 1 if a promise is broken; the self-test
judges no seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of
from pausing.amid_films import amid_films
from pausing.bars import Bar, Part, bar_table, cell, table
from pausing.cost import cost_of_pause
from pausing.same_bytes import same_bytes
from pausing.simulated import traces
from pausing.sizes import Sizes, smallest
from pausing.takes import Site

PARTS: dict[str, Callable[[Site, Sizes], Part]] = {
    "bytes": same_bytes,
    "amid": amid_films,
    "cost": cost_of_pause,
    "trace": traces,
}

Result = dict[str, Any]


def run(name: str, site: Site, sizes: Sizes) -> Result:
    """What a part has found, and under which conditions."""
    began = time.monotonic()
    load_before = os.getloadavg()[0]
    part = PARTS[name](site, sizes)
    return {
        "purpose": str(sys.modules[PARTS[name].__module__].__doc__),
        **msgspec.to_builtins(part),
        "took, s": round(time.monotonic() - began, 1),
        "conditions": conditions() | {"checkpoint": name_of(site.checkpoint), "load average before": load_before},
    }


def bars_of(result: Result) -> list[Bar]:
    """The promises of a part."""
    return msgspec.convert(result["bars"], list[Bar])


def text_of(results: dict[str, Result]) -> str:
    """All parts, in the order in which they are known, as Markdown."""
    lines = ["# A film makes way for a clip", ""]
    found = {name: results[name] for name in PARTS if name in results}
    lines += bar_table(bar for result in found.values() for bar in bars_of(result))
    for name, result in found.items():
        lines += ["", f"## {name}: {result['purpose']}", ""]
        notes = result["notes"] | result["conditions"] | {"took, s": result["took, s"]}
        lines += [*(f"- {key}: {cell(value)}" for key, value in notes.items()), "", *table(result["rows"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which (default: all)")
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    asked = parser.parse_args()
    sizes = smallest() if asked.self_test else Sizes()
    known = asked.output.with_suffix(".json") if asked.output else None
    results: dict[str, Result] = json.loads(known.read_bytes()) if known and known.exists() else {}
    missed = 0
    with (
        demo_checkpoint("tiny", asked.checkpoint) as checkpoint,
        tempfile.TemporaryDirectory() as folder,
        Site(checkpoint, Path(folder)) as site,
    ):
        for name in asked.part:
            result = results[name] = run(name, site, sizes)
            bars = bars_of(result)
            missed += sum(not bar.is_kept for bar in bars if not (asked.self_test and bar.is_timed))
            told = [*bar_table(bars), "", *table(result["rows"]), f"({name}: {result['took, s']} s)", ""]
            print("\n".join(told), flush=True)
            if known is not None:
                known.parent.mkdir(parents=True, exist_ok=True)
                known.write_text(json.dumps(results, indent=2) + "\n")
                known.with_suffix(".md").write_text(text_of(results))
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
