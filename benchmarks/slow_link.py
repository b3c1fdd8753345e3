"""A link slower than the machine: what ring and Ulysses lose on it, and what sending ahead and taking turns keep.

    sudo python benchmarks/slow_link.py [--runs 5] [--ratios 0 0.25 0.4545 1] [--frames 8] [--output benchmarks/results]
    python benchmarks/slow_link.py --self-test

Two ranks with a core and a thread each live in two network namespaces joined by a veth pair, whose rate `tc tbf` limits
so that a hop (one rank's keys and values of one block) takes a chosen share of the seconds that a rank computes in a
layer: hop : layer. At 5 : 11 two CPU ranks stand where two cards without peer-to-peer stand. Every variant runs once a
round, rounds repeat, medians are printed as speedups over one rank measured in the same rounds. Needs root, `ip` and
`tc` (Debian: iproute2); where they are not to be had, the self-test's ranks talk over loopback, and it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from conditions import conditions
from demo import add_self_test
from network import Network, network

USUAL_FRAMES, ROWS, COLUMNS = 8, 32, 32  # of latents: 256 tokens a frame
SELF_TEST = (1, 8, 16)  # frames, rows and columns: eight slices of two tokens for each of two ranks
MODEL = {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048}
NUM_LAYERS = 12
GUIDANCE = ("off", "on")
RATIOS = (0.0, 0.25, 5 / 11, 1.0)


Grid = tuple[int, int, int]  # frames, rows and columns of latents


class Variant(NamedTuple):
    """A way to use the link. `slices` of a rank's tokens are sent ahead; 0 waits for data as soon as it is sent."""

    name: str
    layout: str
    slices: int
    turns: bool = False


def variants(guidance: str) -> list[Variant]:
    """All that is compared."""
    found = []
    for layout in ("u1r2", "u2r1"):
        found += [Variant("wait at once", layout, 0)] if layout == "u1r2" else []
        found += [Variant("K,V first" if layout == "u1r2" else "whole", layout, 1)]
        found += [Variant(f"ahead {slices}", layout, slices) for slices in (2, 3, 4, 8)]
        if guidance == "on":
            found += [Variant("turns", layout, 1, True)]
            found += [Variant(f"turns + ahead {slices}", layout, slices, True) for slices in (2, 4)]
    return found


class Rank:
    """A process in a namespace, on a core of its own, that runs what it is told."""

    def __init__(self, rank: int, network: Network, store: Path, layers: int) -> None:
        prefix, interface = network.place(rank)
        environment = os.environ | {"GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, __file__, "--rank", str(rank), str(store), str(layers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)

    def result(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a rank ended with {self.process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def two_ranks(network: Network, layers: int) -> Iterator[list[Rank]]:
    with tempfile.TemporaryDirectory() as folder:
        ranks = [Rank(rank, network, Path(folder) / "store", layers) for rank in (0, 1)]
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.close()


def seconds_of(ranks: list[Rank], variant: Variant | None, guidance: str, grid: Grid) -> float:
    """Seconds of one prediction: by both ranks, or (None) by rank 0 alone."""
    order = {"guidance": guidance, "variant": variant, "grid": grid}
    taking_part = ranks if variant is not None else ranks[:1]
    for rank in taking_part:
        rank.start(order)
    return max(rank.result()["seconds"] for rank in taking_part)


def measure(
    network: Network, ranks: list[Rank], guidance: str, ratios: list[float], runs: int, grid: Grid, layers: int
) -> Iterator[dict[str, Any]]:
    """Speedups of all variants at every ratio of hop to layer."""
    seconds_of(ranks, None, guidance, grid)
    alone = statistics.median(seconds_of(ranks, None, guidance, grid) for _ in range(3))
    forwards = 2 if guidance == "on" else 1
    layer_seconds = alone / (layers * forwards) / 2
    hop_bits = 8 * 4 * 2 * (tokens_of(grid) // 2) * MODEL["num_attention_heads"] * MODEL["attention_head_dim"]
    every = variants(guidance)
    for ratio in ratios:
        rate = hop_bits / (ratio * layer_seconds) if ratio else None
        network.limit(rate)
        for variant in every[:1] + every[-1:]:
            seconds_of(ranks, variant, guidance, grid)
        taken: dict[Variant | None, list[float]] = {variant: [] for variant in [None, *every]}
        for turn in range(runs):
            order = list(taken)
            for variant in order if turn % 2 == 0 else reversed(order):
                taken[variant].append(seconds_of(ranks, variant, guidance, grid))
        one = statistics.median(taken[None])
        for variant in every:
            seconds = statistics.median(taken[variant])
            print(
                f"guidance {guidance}  {ratio:4.2f}  {variant.layout} {variant.name:16s} "
                f"{seconds:6.3f} s  {one / seconds:5.2f}x",
                flush=True,
            )
            yield (
                variant._asdict()
                | {"guidance": guidance, "ratio": ratio, "mbit": rate and rate / 1e6}
                | {"seconds": seconds, "alone": one, "speedup": one / seconds, "all": taken[variant]}
            )


def tokens_of(grid: Grid) -> int:
    return math.prod(grid) // 4


def table(rows: list[dict[str, Any]]) -> str:
    """Speedups over one rank, and what each loses against the best of its layout without a limit."""
    ratios = sorted({row["ratio"] for row in rows})
    parts = []
    for guidance, layout in sorted({(row["guidance"], row["layout"]) for row in rows}):
        mine = [row for row in rows if (row["guidance"], row["layout"]) == (guidance, layout)]
        best = max((row["speedup"] for row in mine if row["ratio"] == 0.0), default=None)
        head = " | ".join("no limit" if ratio == 0 else f"hop : layer {ratio:.2f}" for ratio in ratios)
        parts += [f"## {layout}, guidance {guidance}", "", f"| | {head} |", "|---|" + "---:|" * len(ratios)]
        for name in dict.fromkeys(row["name"] for row in mine):
            found = {row["ratio"]: row["speedup"] for row in mine if row["name"] == name}
            lost = {ratio: f" ({1 - found[ratio] / best:.0%})" if best else "" for ratio in ratios}
            cells = [f"{found[ratio]:.2f}x{lost[ratio]}" for ratio in ratios]
            parts.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Speedup over one rank against hop : layer, a panel for each layout and guidance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(row["guidance"], row["layout"]) for row in rows})
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4.2), sharey=True, squeeze=False)
    for axis, (guidance, layout) in zip(axes[0], panels, strict=True):
        mine = [row for row in rows if (row["guidance"], row["layout"]) == (guidance, layout)]
        for name in dict.fromkeys(row["name"] for row in mine):
            line = [(row["ratio"], row["speedup"]) for row in mine if row["name"] == name]
            usual = name in ("wait at once", "K,V first", "whole")
            axis.plot(*zip(*line, strict=True), marker="o", linestyle="--" if usual else "-", label=name)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(title=f"{layout}, guidance {guidance}", xlabel="hop : layer (0: no limit)")
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("speedup over one rank")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(rows: list[dict[str, Any]], folder: Path, link: str, runs: int, grid: Grid, layers: int) -> None:
    """Results as JSON, Markdown and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = tokens_of(grid)
    name = "slow_link" if grid == (USUAL_FRAMES, ROWS, COLUMNS) else f"slow_link_{tokens}_tokens"
    said = conditions() | {
        "checkpoint": f"random weights: {MODEL}, {layers} layers, {tokens:,} tokens",
        "link": link,
        "rounds": runs,
    }
    document = {"conditions": said, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = "\n".join(f"- {name}: {value}" for name, value in said.items())
    text = (
        f"# A slow link\n\n{lines}\n\nSpeedup over one rank, and in brackets what is lost against the best of the "
        f"same layout without a limit.\n\n{table(rows)}\n![speedups]({name}.png)\n"
    )
    (folder / f"{name}.md").write_text(text)
    plot(rows, folder / f"{name}.png")


# --- what runs in a rank ------------------------------------------------------------------------------------------


def serve(rank: int, store_path: str, layers: int) -> None:
    """Make a thin model, then run a prediction for every line on stdin."""
    import torch
    import torch.distributed as dist

    from ringlight.parallel.link import Link

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    dist.init_process_group("gloo", store=dist.FileStore(store_path, 2), rank=rank, world_size=2)
    link = Link()
    link.open("gloo", torch.device("cpu"))
    model, keys = build(layers)
    latents = torch.empty(0)
    for line in sys.stdin:
        order = json.loads(line)
        shape = (1, 48, *order["grid"])
        if latents.shape != shape:
            latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        variant = None if order["variant"] is None else Variant(*order["variant"])
        link.reset()
        start = time.perf_counter()
        predict(model, keys[: 2 if order["guidance"] == "on" else 1], latents, variant, rank, link)
        seconds = time.perf_counter() - start
        waited = sum(kind.wait_seconds for kind in link.report().values())
        print(json.dumps({"seconds": seconds, "waited": waited}), flush=True)


def build(layers: int) -> Any:
    """A transformer with random weights, and the text keys of two prompts."""
    import torch

    from ringlight.families.wan.networks.transformer import WanTransformer
    from ringlight.families.wan.work.transformer import TransformerSpec
    from ringlight.models.loading import fill_random, materialise

    spec = TransformerSpec(
        patch_size=(1, 2, 2),
        in_channels=48,
        out_channels=48,
        text_dim=64,
        freq_dim=256,
        num_layers=layers,
        **MODEL,
    )
    with torch.device("meta"):
        model = WanTransformer(spec)
    materialise(model, torch.device("cpu"), torch.float32, WanTransformer.KEPT_IN_FLOAT32)
    fill_random(model, 0)
    model.optimise_layout()
    text = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(2))
    return model, [model.text_keys(rows, 512) for rows in text]


def predict(model: Any, keys: list[Any], latents: Any, variant: Variant | None, rank: int, link: Any) -> None:
    """One prediction, its guidance branches one after another or in turns."""
    import torch

    from ringlight.core.layout import ParallelLayout
    from ringlight.families.wan.networks import transformer
    from ringlight.kernels.attention.kernel import load_kernel
    from ringlight.parallel.attention import sequence_attention
    from ringlight.parallel.mesh import ParallelMesh
    from ringlight.parallel.turns import in_turns

    kernel, times = load_kernel("flash_cpu"), torch.tensor([500.0])
    transformer.sequence_attention = sequence_attention
    if variant is None:
        for branch in keys:
            model(latents, times, branch, kernel, ParallelMesh.alone())
        return
    mesh = ParallelMesh.of(ParallelLayout.parse(variant.layout), rank, link)
    if variant.slices == 0:
        transformer.sequence_attention = waiting_at_once
    forwards = [model.steps(latents, times, branch, kernel, mesh, variant.slices) for branch in keys]
    if variant.turns:
        in_turns(*forwards)
    else:
        for forward in forwards:
            in_turns(forward)


def waiting_at_once(shard: Any, kernel: Any, num_slices: int) -> Any:
    """The usual ring: each hop is waited for before anything is computed."""
    from ringlight.parallel.attention import Whole

    class Waiting(Whole):
        def offer(self, *part_q_k_v: Any) -> None:
            super().offer(*part_q_k_v)
            if self._ring._coming is not None:  # all runs are offered
                self._ring._coming[1].wait()

    return Waiting(shard, kernel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--frames", type=int, default=USUAL_FRAMES, help="of latents, 256 tokens each")
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--output", type=Path, help="folder for slow_link.json, .md and .png")
    add_self_test(parser)
    options = parser.parse_args()
    ratios, runs, layers = options.ratios, options.runs, NUM_LAYERS
    grid = (options.frames, ROWS, COLUMNS)
    if options.self_test:
        ratios, runs, grid, layers = [0.0, 1.0], 1, SELF_TEST, 2
    elif len(os.sched_getaffinity(0)) < 2:
        sys.exit("slow_link needs two cores: every rank has one of its own")
    guidances = ["on"] if options.self_test else options.guidance  # all variants are there with guidance
    rows = []
    with network(options.self_test) as link:
        print(f"link: {link.name}")
        for guidance in guidances:
            with two_ranks(link, layers) as ranks:
                link.limit(None)
                rows += measure(link, ranks, guidance, ratios, runs, grid, layers)
    print(table(rows))
    if options.output:
        write(rows, options.output, link.name, runs, grid, layers)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank, store, layers = sys.argv[2:]
        serve(int(rank), store, int(layers))
    else:
        main()
