"""What a memory budget costs on a CPU, and a full-size transformer in less memory than its weights take.

    python benchmarks/memory_budget.py [--rounds 3] [--output benchmarks/results/memory_budget]
    python benchmarks/memory_budget.py --full-size FOLDER       also writes 10 GB there, and makes a video of them
    python benchmarks/memory_budget.py --self-test

The same request with all weights in each rank's own memory, and within half, a third and the least of what that takes
(the least is what the refusal of a budget that is too small names), on one rank and on two, in turns; medians. Frames
must be the same to the byte, and what a rank has of its own within the budget. `Predicted` is how much longer the plan
says that it takes; several ranks measure their speed when they start, each time anew, and plans go by it.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of

GIB = 2**30
REQUEST = ["--prompt", "a boat", "--seed", "1", "--num-threads", "1", "--device", "cpu", "--quiet"]
SMALL = ["--size", "64x64", "--num-frames", "5", "--num-inference-steps", "2"]
TOO_LITTLE = "1MiB"
LEAST = re.compile(r"--memory-budget ([0-9.]+[GM]iB)")
FULL_SIZE = {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 30}
SHARD_BYTES = 2 * 10**9


def generate(checkpoint: Path, output: Path, *flags: str) -> dict[str, Any]:
    """Make a video by the command; returns its report. Raises RuntimeError with what it said."""
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "ringlight", "generate", "--model-path", str(checkpoint), "--output", str(output)]
    done = subprocess.run(
        [*command, "--report", str(report), *REQUEST, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    told: dict[str, Any] = json.loads(report.read_text())
    return told


def least_budget(checkpoint: Path, folder: Path, flags: list[str]) -> str:
    """What a refusal names."""
    try:
        generate(checkpoint, folder / "refused.npy", *flags, "--memory-budget", TOO_LITTLE)
    except RuntimeError as refusal:
        if match := LEAST.search(str(refusal)):
            return match[1]
        raise
    return TOO_LITTLE


def measure(
    checkpoint: Path,
    folder: Path,
    num_gpus: int,
    flags: list[str],
    rounds: int,
    others: Mapping[str, str],
    only_least: bool = False,
) -> Iterator[dict[str, Any]]:
    """A row for each budget on so many ranks; `others` are further budgets by their names."""
    flags = [*flags, "--num-gpus", str(num_gpus)]
    first = generate(checkpoint, folder / "warm.npy", *flags)
    whole = first["predicted"]["peak_bytes"]
    budgets = {
        "all its own": "",
        "half": f"{whole / 2 / GIB:.3f}GiB",
        "a third": f"{whole / 3 / GIB:.3f}GiB",
        "the least": least_budget(checkpoint, folder, flags),
        **others,
    }
    if only_least:
        budgets = {name: budgets[name] for name in ("all its own", "the least")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in budgets}
    for _ in range(rounds):
        for name, budget in budgets.items():
            output = folder / f"{name}.npy"
            try:
                report = generate(checkpoint, output, *flags, *(["--memory-budget", budget] if budget else []))
            except RuntimeError as refusal:
                print(f"{num_gpus} ranks, {name} ({budget}): {refusal}", file=sys.stderr)
                continue
            report["same"] = filecmp.cmp(output, folder / "warm.npy", shallow=False)
            found[name].append(report)
    base = found["all its own"]
    for name, reports in found.items():
        if reports:
            yield row(num_gpus, name, budgets[name], reports, base)


def row(
    num_gpus: int, name: str, budget: str, reports: list[dict[str, Any]], base: list[dict[str, Any]]
) -> dict[str, Any]:
    """What several runs alike have shown, beside those of the base in the same round."""
    ratios = [mine["total_seconds"] / its["total_seconds"] for mine, its in zip(reports, base, strict=False)]
    predicted_ratios = [
        mine["predicted"]["total_seconds"] / its["predicted"]["total_seconds"]
        for mine, its in zip(reports, base, strict=False)
    ]
    own = [report["worst_memory"]["peak_own_bytes"] for report in reports]
    resident = [report["worst_memory"]["peak_resident_bytes"] for report in reports]
    return {
        "ranks": num_gpus,
        "name": name,
        "budget": budget,
        "own_bytes": max(own) if None not in own else None,
        "resident_bytes": max(resident) if None not in resident else None,
        "predicted_bytes": reports[0]["predicted"]["peak_bytes"],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "predicted_ratio": statistics.median(predicted_ratios),
        "predicted_ratios": predicted_ratios,
        "load_seconds": statistics.median(report["environment"]["load_seconds"] for report in reports),
        "same": all(report["same"] for report in reports),
    }


def full_size(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of a transformer of Wan2.2-TI2V-5B's size, whose weights are nearly all that there is: two steps of a small
    video in its dtype, once each."""
    checkpoint = folder / "full-size"
    write_full_size(checkpoint)
    yield from measure(checkpoint, folder, 1, ["--dtype", "bfloat16", *SMALL], 1, {"4 GiB": "4GiB"})


def write_full_size(checkpoint: Path) -> None:
    """Write it where it is not there yet, with the demo's small text encoder and VAE."""
    import torch
    from safetensors.torch import save_file

    from ringlight.families.table import read_model
    from ringlight.families.wan.networks.transformer import WanTransformer
    from ringlight.families.wan.work.transformer import TransformerSpec
    from ringlight.families.wan22_ti2v.demo import DEMO, SIZES

    if (checkpoint / "ringlight.json").exists():
        return
    DEMO.write(checkpoint, "tiny")
    for old in (checkpoint / "transformer").glob("*.safetensors"):
        old.unlink()
    DEMO.describe(checkpoint, {**SIZES["tiny"], "transformer": FULL_SIZE}, "full-size")
    spec = read_model(checkpoint).transformer
    assert isinstance(spec, TransformerSpec)
    with torch.device("meta"):
        slots = WanTransformer(spec).checkpoint_slots()
    generator = torch.Generator().manual_seed(0)
    shards: list[list[str]] = [[]]
    size = 0
    for name, slot in slots.items():
        size += 2 * slot.numel()
        if size > SHARD_BYTES:
            shards.append([])
            size = 2 * slot.numel()
        shards[-1].append(name)
    index = {}
    for number, names in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            shape = slots[name].shape
            scale = 0.02 if len(shape) < 2 else 1 / math.sqrt(math.prod(shape[1:]))
            tensors[name] = torch.randn(shape, generator=generator).mul_(scale).bfloat16()
        save_file(tensors, checkpoint / "transformer" / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    told = {"metadata": {"total_size": sum(2 * slot.numel() for slot in slots.values())}, "weight_map": index}
    (checkpoint / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(told))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""

    def gib(count: int | None) -> str:
        return "" if count is None else f"{count / GIB:.2f}"

    head = [
        "Ranks",
        "Memory",
        "Budget",
        "Own (GiB)",
        "Resident (GiB)",
        "Predicted (GiB)",
        "Seconds",
        "Predicted",
        "Load (s)",
        "Frames",
    ]
    return [
        f"| {' | '.join(head)} |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *(
            f"| {each['ranks']} | {each['name']} | {each['budget']} | {gib(each['own_bytes'])} | "
            f"{gib(each['resident_bytes'])} | {gib(each['predicted_bytes'])} | {each['ratio']:.2f} | "
            f"{each['predicted_ratio']:.2f} | {each['load_seconds']:.1f} | {'the same' if each['same'] else 'DIFFER'} |"
            for each in rows
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--full-size", type=Path, help="folder for 10 GB of weights, which stay there")
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    asked = parser.parse_args()
    flags, rounds, ranks = [], asked.rounds, asked.ranks
    if asked.self_test:
        flags, rounds, ranks = SMALL, 1, [1]
    with demo_checkpoint("small", asked.checkpoint) as checkpoint, tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        rows = [row for n in ranks for row in measure(checkpoint, there, n, flags, rounds, {}, asked.self_test)]
        found = conditions() | {"checkpoint": name_of(checkpoint), "rounds": rounds}
    lines = ["# Memory budgets on a CPU", "", *(f"- {name}: {value}" for name, value in found.items()), ""]
    lines += table(rows)
    whole = [] if asked.full_size is None else list(full_size(asked.full_size))
    if whole:
        lines += ["", "## A full-size transformer, two steps of a small video in bfloat16", "", *table(whole)]
    print("\n".join(lines))
    if asked.output is not None:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
        told = found | {"rows": rows, "full_size": whole}
        asked.output.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
