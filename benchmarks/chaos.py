"""What must hold, whatever happens: kills, stops, full disks, cancels and crowds, as often as it takes to believe it.

    python benchmarks/chaos.py [SCENARIO[=COUNT] ...] [--seed 20] [--output benchmarks/results/chaos]
    python benchmarks/chaos.py --self-test

Without names all scenarios are run with their full counts; `--list` shows them; the self-test runs one, once. Each is
given a folder and servers of its own with the tiny demo checkpoint, on a CPU, two ranks in the layout u1r2 where not
said otherwise. A promise that is broken is reported with its traceback, ends its scenario and makes the exit code 1;
the others go on. Results are added to those of the same `--output` that other scenarios have left there, each with its
own conditions. A long scenario may be run in pieces, each with a seed of its own: they stand side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tests.server.chaos import SCENARIOS

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint

SELF_TEST = "strangers=1"
SEED = 20

Result = dict[str, Any]


def run(name: str, count: int, seed: int, checkpoint: Path) -> Result:
    """What a scenario has found, or how it failed."""
    scenario = SCENARIOS[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found, failure = scenario.run(Path(folder), checkpoint, count, random.Random(seed)), None
        except Exception:  # whatever it is, it is a finding, and the other scenarios are run
            found, failure = {}, traceback.format_exc()
    return {
        "purpose": scenario.purpose,
        "count": count,
        "full count": scenario.count,
        "seed": seed,
        "kept": failure is None,
        "found": found,
        "failure": failure,
        "took, s": round(time.monotonic() - began, 1),
        "load average": round(os.getloadavg()[0], 1),
        "conditions": conditions(),
    }


def table(results: dict[str, Result]) -> str:
    """All scenarios in the order in which they are known."""
    lines = ["| scenario | times | kept | found | load at its end | commit |", "|---|---:|---|---|---:|---|"]
    for name in SCENARIOS:
        for result in [each for key, each in results.items() if name_of(key) == name]:
            found = "; ".join(f"{key}: {said(value)}" for key, value in result["found"].items())
            times = f"{result['count']} of {result['full count']}"
            kept = "yes" if result["kept"] else "NO"
            load, commit = result["load average"], result["conditions"]["commit"]
            lines.append(f"| **{name}**: {result['purpose']} | {times} | {kept} | {found} | {load} | {commit} |")
    return "\n".join(lines)


def key_of(name: str, seed: int) -> str:
    """What a result is called among others."""
    return name if seed == SEED else f"{name}, seed {seed}"


def name_of(key: str) -> str:
    """The scenario of a result that is called so."""
    return key.split(", seed ")[0]


def said(value: Any) -> str:
    """A finding in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(each)}" for key, each in value.items())
    return str(value)


def write(output: Path, results: dict[str, Result]) -> None:
    """Results as JSON, each with its own conditions, and Markdown, with those of all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    first = next(iter(results.values()))["conditions"]
    conditions_of_all = {
        name: ", ".join(sorted({str(result["conditions"][name]) for result in results.values()}))
        for name in first
        if name != "command"  # each scenario's own
    }
    conditions_of_all |= {
        "checkpoint": "demo tiny",
        "seed": ", ".join(sorted({str(result["seed"]) for result in results.values()})),
        "command": "python benchmarks/chaos.py SCENARIO=TIMES ...",
    }
    head = "\n".join(f"- {name}: {value}" for name, value in conditions_of_all.items())
    output.with_suffix(".md").write_text(f"# What holds, whatever happens\n\n{head}\n\n{table(results)}\n")


def parse(asked: list[str]) -> dict[str, int]:
    """Counts by name. Exits with a line for a name that is none."""
    counts = {}
    for each in asked or list(SCENARIOS):
        name, _, count = each.partition("=")
        if name not in SCENARIOS:
            raise SystemExit(f"{name!r} is not one of: {', '.join(SCENARIOS)}")
        counts[name] = int(count) if count else SCENARIOS[name].count
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO[=COUNT]")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    parser.add_argument("--list", action="store_true", help="print all scenarios and their counts")
    options = parser.parse_args()
    if options.list:
        return print("\n".join(f"{name}={each.count}  {each.purpose}" for name, each in SCENARIOS.items()))
    counts = parse([SELF_TEST] if options.self_test else options.scenarios)
    torch.set_num_threads(1)  # some ranks are forked from this process
    known = options.output.with_suffix(".json") if options.output else None
    results: dict[str, Result] = json.loads(known.read_bytes()) if known and known.exists() else {}
    done = []
    with demo_checkpoint("tiny", options.checkpoint) as checkpoint:
        for name, count in counts.items():
            result = results[key_of(name, options.seed)] = run(name, count, options.seed, checkpoint)
            done.append(result)
            print(
                table({name: result}).splitlines()[-1], result["failure"] or "", f"({result['took, s']} s)", flush=True
            )
            if options.output:
                write(options.output, results)
    sys.exit(any(not result["kept"] for result in done))


if __name__ == "__main__":
    main()
