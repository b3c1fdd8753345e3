"""Check and time everything that needs a GPU, on one GPU, without downloading anything.

    python benchmarks/gpu_check.py                                  all of it; the budgets sum to 9 minutes
    python benchmarks/gpu_check.py --only kernels parity            some sections
    python benchmarks/gpu_check.py --device cpu --self-test         the same code at toy sizes, without a GPU

Full-size networks get random weights on the device. What many ranks do is checked by processes that share the one
device, and timed beside a link of a chosen rate that this device pretends to have. Prints Markdown tables as it goes
and writes gpu_check.json and gpu_check.md. Exit codes: 0, 1 if any row says FAIL, 2 if there is no GPU or the flags
contradict each other.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from gpu import full, kernels, parity, pipeline, ranks
from gpu.conditions import conditions
from gpu.report import DeviceLost, Report, Row, error_line
from gpu.scale import Scale, full_scale, toy_scale

SECTIONS = {
    "kernels": kernels.run,
    "parity": parity.run,
    "full": full.run,
    "pipeline": pipeline.run,
    "ranks": ranks.run,
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
    scale = toy_scale(device) if asked.self_test else full_scale(device)
    report = Report(asked.output, conditions(device, asked.self_test, asked.commit))
    print("\n".join(f"- {name}: {value}" for name, value in report.conditions.items()), flush=True)
    run_sections(report, asked.only, scale)
    print(f"\n**{report.summary}**; written to {asked.output}")
    return 1 if report.verdicts["FAIL"] else 0


def run_sections(report: Report, names: list[str], scale: Scale) -> None:
    """One section after another; once the device is lost, the rest is reported as failed."""
    lost = ""
    for name in names:
        section = report.start(name, scale.budgets[name])
        if lost:
            section.add(Row(name, f"not run, the CUDA context broke earlier: {lost}", "runs", "FAIL"))
            continue
        try:
            SECTIONS[name](section, scale)
        except DeviceLost as error:
            lost = str(error)
            section.add(Row("the rest of the section", f"the CUDA context broke: {lost}", "runs", "FAIL"))
        except Exception as error:  # what a section sets up for its checks; the other sections still run
            traceback.print_exc()
            section.add(Row("the rest of the section", error_line(error), "runs", "FAIL"))
    report.write()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and time everything that needs a GPU.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu_check.json and gpu_check.md")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--self-test", action="store_true", help="toy sizes, to test the script itself")
    parser.add_argument("--commit", help="the commit measured, where the files are not in a checkout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
