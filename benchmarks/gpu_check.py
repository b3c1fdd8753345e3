"""Check and time everything that needs a GPU, on one GPU, in nine minutes, without downloading anything.

    python benchmarks/gpu_check.py                                  all of it, at most --seconds 540
    python benchmarks/gpu_check.py --only start worker              some sections
    python benchmarks/gpu_check.py --device cpu --self-test         the same code at toy sizes, without a GPU

The one run: give it a machine with one H100 or H200 and nothing else on it, and

    PYTHONPATH=src python benchmarks/gpu_check.py --commit $(git rev-parse --short=12 HEAD) | tee gpu_check.log

(with the package installed, or without; `--commit` where the files are no checkout). It needs the wheels of torch,
numpy, safetensors, pillow, av, msgspec, tokenizers, ftfy, and of the command line: typer,
rich, pyyaml and nvidia-ml-py. Commit results/gpu_check.json and results/gpu_check.md, whatever they say.

Every row is printed and written as soon as it is known. Every section has a process of its own and a moment when it is
ended from outside, hung kernels and all; time that it leaves goes to those after it. The sections stand in the order of
what they tell: the first minute shows whether the rest is worth running. Full-size networks get random weights on the
device. What many ranks do is checked by processes that share the one device over gloo, and timed beside a link of a
chosen rate that this device pretends to have; messages over NCCL would need two GPUs. Exit codes: 0, 1 if any row says
FAIL, 2 if there is no GPU or the flags contradict each other.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import signal
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU must not touch it: sections are forked
}

import torch

from demo import add_self_test
from gpu import choices, compiled, generation, lanes, parity, pipeline, ranks, start, transformer, vae
from gpu.conditions import conditions
from gpu.report import Report, Row
from gpu.scale import Scale, scale_of
from gpu.watching import Work, process_began, run_watched, start_method

SECTIONS: dict[str, Work] = {
    "start": start.run,
    "worker": pipeline.run,
    "parity": parity.run,
    "generation": generation.run,
    "transformer": transformer.run,
    "decoding": vae.run,
    "nccl": lanes.run,
    "choices": choices.run,
    "ranks": ranks.run,
    "compile": compiled.run,
    "more ranks": ranks.run_more,
}
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Run the sections asked for; returns the exit code."""
    asked = parse_arguments()
    device = torch.device("cuda", 0) if asked.device == "cuda" else torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device; --device cpu --self-test tests the script without one")
        return 2
    if device.type == "cpu" and not asked.self_test:
        print("--device cpu needs --self-test: the sizes of a full run are those of a GPU")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the section that runs
    report = Report(asked.output, {})
    report.learn(conditions(asked.self_test, asked.commit))
    print("\n".join(f"- {name}: {value}" for name, value in report.conditions.items()), flush=True)
    run_sections(report, asked.only, scale_of(device, asked.self_test), asked.seconds)
    print(f"\n**{report.summary}**; written to {asked.output} after {time.monotonic() - process_began():.0f} s")
    return 1 if report.verdicts["FAIL"] else 0


def run_sections(report: Report, names: list[str], scale: Scale, seconds: float) -> None:
    """One after another, each until its own budget and what was left before it are spent, and all until `seconds`."""
    began, method = process_began(), start_method()
    gc.collect()
    gc.freeze()  # garbage is collected after every check: to look through all that is imported too takes 0.15 s
    budgets = [scale.budgets[name] for name in names]
    for name, budget, due in zip(names, budgets, accumulate(budgets), strict=True):
        part = report.start(name, budget)
        ends_at = began + min(due, seconds)
        if time.monotonic() >= ends_at:
            part.add(Row(name, f"the {seconds:g} s of the whole run are spent", verdict="cut"))
            continue
        run_watched(report, part, SECTIONS[name], scale, ends_at, method)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--output", type=Path, help="folder for gpu_check.json and gpu_check.md")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="a CPU is for the self-test, and what it takes itself"
    )
    parser.add_argument("--commit", help="the commit measured, where the files are not in a checkout")
    told = "when all of it is ended, whatever it does then (default: when all budgets are spent, 540 on a GPU)"
    parser.add_argument("--seconds", type=float, default=math.inf, help=told)
    add_self_test(parser)
    asked = parser.parse_args()
    asked.device = asked.device or ("cpu" if asked.self_test else "cuda")
    asked.output = asked.output or (Path(tempfile.mkdtemp(prefix="gpu_check-")) if asked.self_test else RESULTS)
    return asked


if __name__ == "__main__":
    sys.exit(main())
