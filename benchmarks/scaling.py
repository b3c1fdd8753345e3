"""Two ranks against one: Denoising, Decoding and Total of whole generations, beside the machine's own ceiling.

    python benchmarks/scaling.py [--runs 5] [--layouts u1r2 u2r1 c2u1r1] [--no-diffusers] [--num-frames 49]
        [--output benchmarks/results/scaling]
    python benchmarks/scaling.py --self-test

Every rank has one core and one thread. In each round every contender makes the same video once, and the order turns
from round to round: one rank; two independent single ranks side by side (the ceiling: nothing that shares a machine's
memory and power between two cores scales further); two ranks in each layout; and diffusers' own context parallelism,
one rank and two. Medians of the ratios of each round are printed. All processes stay loaded, and idle when not theirs
is the turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of

PROMPT, NEGATIVE = "a boat crosses a bridge at night, cinematic lighting", "blurry, low quality"
REQUEST = {"width": 512, "height": 320, "num_frames": 49, "num_inference_steps": 5, "guidance_scale": 5.0, "seed": 7}
LONG = {"num_frames": 81, "num_inference_steps": 1}  # 3,360 tokens, denoised once: for memory, which activations fill
SELF_TEST = REQUEST | {"width": 64, "height": 32, "num_frames": 5, "num_inference_steps": 1}
STAGES = ("Denoising", "Decoding", "Total")
GOALS = {"Denoising": 0.95, "Decoding": 0.92, "Total": 0.93}  # shares of the ceiling
GROWTH_GOAL = 0.6
LAYOUTS = ("u1r2", "u2r1", "c2u1r1")
THEIR_LAYOUTS = ("u1r2", "u2r1")

Seconds = dict[str, float]
Request = dict[str, Any]
Contender = Callable[[int], Seconds]


def pin(pid: int, core: int) -> None:
    """Keep a process, all its threads and those to come, on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


class Ours:
    """An engine whose ranks have a core each."""

    def __init__(self, checkpoint: Path, request: Request, cores: list[int]) -> None:
        from ringlight import Engine, EngineConfig, RequestLimits
        from ringlight.core.layout import AskedLayout
        from ringlight.engine.launch.local import LocalLauncher
        from ringlight.engine.ranked import RankedReplica

        config = EngineConfig(
            model_path=str(checkpoint),
            device="cpu",
            num_threads=1,
            asked_layout=AskedLayout(num_gpus=len(cores)),
        )
        replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), len(cores)))
        self.engine = Engine(config, replica=replica)
        self.engine.start()
        for pid, core in zip(replica.pids, cores, strict=True):
            pin(pid, core)
        self._request = request
        self._folder = tempfile.TemporaryDirectory()

    def submit(self, turn: int, layout: str | None, output: str = "video.mp4", **changes: int) -> Any:
        from ringlight.core.layout import ParallelLayout

        fields = self._request | changes
        request = self.engine.request(f"{PROMPT} {turn}", negative_prompt=f"{NEGATIVE} {turn}", **fields)
        path = str(Path(self._folder.name) / output)
        return self.engine.submit(request, path, layout=ParallelLayout.parse(layout) if layout else None)

    def run(self, turn: int, layout: str | None = None) -> Seconds:
        return seconds_of(self.submit(turn, layout).wait())

    def growth_of_denoising(self, long: Request, layout: str | None = None) -> float:
        """Bytes of memory over the idle worker, of the worst rank, for a long video."""
        report = self.submit(0, layout, "latents.safetensors", **long).wait()
        return seconds_of(report)["Denoising growth"]

    def close(self) -> None:
        self.engine.close()
        self._folder.cleanup()


def seconds_of(report: Any) -> Seconds:
    """Seconds of the stages that are compared; of ranks the slowest. Growth of memory is the worst rank's, in bytes."""
    found = {"Total": report.total_seconds}
    idle = max(memory.idle_resident_bytes for memory in report.memory)
    for position, stage in enumerate(report.stages):
        if stage.name in STAGES:
            found[stage.name] = report.slowest(position).seconds
            found[f"{stage.name} growth"] = float(report.worst_peak_bytes(position) - idle)
    found["waited"] = sum(link.wait_seconds for link in report.worst_link.values())
    return found


def side_by_side(first: Ours, second: Ours) -> Contender:
    """Two independent single ranks at once: the mean of their seconds."""

    def run(turn: int) -> Seconds:
        jobs = [contender.submit(turn, None) for contender in (first, second)]
        taken = [seconds_of(job.wait()) for job in jobs]
        return {stage: statistics.mean(seconds[stage] for seconds in taken) for stage in STAGES}

    return run


class Diffusers:
    """diffusers on one rank, or on two with its context parallelism: processes that have a core each."""

    def __init__(self, checkpoint: Path, request: Request, layout: str, store: Path, cores: list[int]) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        num_ranks = 1 if layout == "u1r1" else 2
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    "--diffusers",
                    str(checkpoint),
                    json.dumps(request),
                    layout,
                    str(rank),
                    str(cores[rank]),
                    str(store),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(num_ranks)
        ]
        for process in self.processes:
            read(process)

    def run(self, turn: int) -> Seconds:
        for process in self.processes:
            assert process.stdin is not None
            print(turn, file=process.stdin, flush=True)
        taken = [read(process) for process in self.processes]
        return {stage: max(seconds[stage] for seconds in taken) for stage in STAGES}

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()


def read(process: subprocess.Popen[str]) -> Seconds:
    """The next answer of a process."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            answer: Seconds = json.loads(line)
            return answer
    raise RuntimeError(f"a process ended with {process.wait()}")


def measure(contenders: dict[str, Contender], runs: int) -> dict[str, list[Seconds]]:
    """What every contender took in every round, after a first one that is not counted."""
    taken: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        order = list(contenders)
        for name in order if turn % 2 else reversed(order):
            seconds = contenders[name](turn)
            if turn:
                taken[name].append(seconds)
                said = "  ".join(f"{stage} {seconds[stage]:.2f}" for stage in STAGES)
                print(f"round {turn}  {name:16s} {said}", file=sys.stderr, flush=True)
    return taken


def speedups(taken: dict[str, list[Seconds]]) -> list[dict[str, Any]]:
    """For each contender and stage: the median speedup over one rank of its round, and its share of the ceiling."""
    rows = []
    for name, rounds in taken.items():
        if name in ("one rank", "diffusers u1r1"):
            continue
        base = taken["diffusers u1r1" if name.startswith("diffusers") else "one rank"]
        factor = 2 if name == "ceiling" else 1  # two videos in that time
        row: dict[str, Any] = {"name": name}
        for stage in STAGES:
            ratios = [factor * one[stage] / many[stage] for one, many in zip(base, rounds, strict=True)]
            ceilings = [
                2 * one[stage] / two[stage] for one, two in zip(taken["one rank"], taken["ceiling"], strict=True)
            ]
            shares = [ratio / ceiling for ratio, ceiling in zip(ratios, ceilings, strict=True)]
            row[stage] = {
                "seconds": statistics.median(seconds[stage] for seconds in rounds),
                "speedup": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
                "share_of_ceiling": statistics.median(shares),
            }
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | " + " | ".join(f"{stage}: speedup (range), share of the ceiling" for stage in STAGES) + " |",
        "|---|" + "---:|" * len(STAGES),
    ]
    for row in rows:
        cells = []
        for stage in STAGES:
            low, high = row[stage]["range"]
            cells.append(f"{row[stage]['speedup']:.2f} ({low:.2f}-{high:.2f}), {row[stage]['share_of_ceiling']:.2f}")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    goals = " | ".join(f"{GOALS[stage]:.2f}" for stage in STAGES)
    return "\n".join([*lines, f"| goal (share) | {goals} |"])


def growths(taken: dict[str, list[Seconds]], denoising: dict[str, float]) -> dict[str, dict[str, float]]:
    """Growth of memory over the idle worker in bytes: the worst rank's."""
    return {
        name: {
            "Denoising": growth,
            "Decoding": statistics.median(seconds["Decoding growth"] for seconds in taken[name]),
        }
        for name, growth in denoising.items()
    }


def growth_table(grown: dict[str, dict[str, float]]) -> str:
    """Growth of memory, and its ratio to one rank's."""
    lines = [
        "| Growth over the idle worker, worst rank | Denoising 81 frames (MiB), ratio | Decoding (MiB), ratio |",
        "|---|---:|---:|",
    ]
    for name, found in grown.items():
        cells = [f"{growth / 2**20:.0f}, {growth / grown['one rank'][stage]:.2f}" for stage, growth in found.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| goal (ratio) | {GROWTH_GOAL:.2f} | {GROWTH_GOAL:.2f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--diffusers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--num-frames", type=int, default=REQUEST["num_frames"])
    parser.add_argument("--output", type=Path, help="where results go: this name with .json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    options = parser.parse_args()
    request, long = REQUEST | {"num_frames": options.num_frames}, LONG
    their_layouts = THEIR_LAYOUTS if options.diffusers else ()
    size = "small"
    cores = sorted(os.sched_getaffinity(0))
    if options.self_test:
        request, long, size = SELF_TEST, {}, "tiny"
        options.runs, options.layouts, their_layouts = 1, ["u1r2"], THEIR_LAYOUTS[:1]
        cores = 2 * cores
    elif len(cores) < 2:
        sys.exit("scaling needs two cores: every rank has one of its own")
    with demo_checkpoint(size, options.checkpoint) as checkpoint:
        taken, denoising = run(checkpoint, request, long, options.layouts, their_layouts, options.runs, cores[:2])
        name = name_of(checkpoint)
    rows, grown = speedups(taken), growths(taken, denoising)
    text = f"{table(rows)}\n\n{growth_table(grown)}"
    print(text)
    if options.output:
        said = conditions() | {"checkpoint": name, "request": request, "rounds": options.runs}
        write(options.output, said, rows, grown, taken, text)


def run(
    checkpoint: Path,
    request: Request,
    long: Request,
    layouts: Sequence[str],
    their_layouts: Sequence[str],
    runs: int,
    cores: list[int],
) -> tuple[dict[str, list[Seconds]], dict[str, float]]:
    """(what every contender took in every round, growth of memory while a `long` request is denoised)."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alone, beside, pair = (Ours(checkpoint, request, where) for where in (cores[:1], cores[1:], cores))
        for ours in (alone, beside, pair):
            stack.callback(ours.close)
        contenders: dict[str, Contender] = {"one rank": alone.run, "ceiling": side_by_side(alone, beside)}
        for layout in layouts:
            contenders[layout] = lambda turn, layout=layout: pair.run(turn, layout)
        for layout in ("u1r1", *their_layouts) if their_layouts else ():
            theirs = Diffusers(checkpoint, request, layout, folder / f"store-{layout}", cores)
            stack.callback(theirs.close)
            contenders[f"diffusers {layout}"] = theirs.run
        taken = measure(contenders, runs)
        denoising = {"one rank": alone.growth_of_denoising(long)}
        denoising |= {layout: pair.growth_of_denoising(long, layout) for layout in layouts}
    return taken, denoising


def write(
    output: Path, said: Any, rows: list[dict[str, Any]], grown: Any, taken: dict[str, list[Seconds]], text: str
) -> None:
    """Results as JSON and Markdown."""
    output.parent.mkdir(parents=True, exist_ok=True)
    document = {"conditions": said, "rows": rows, "growth_bytes": grown, "rounds": taken}
    output.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
    lines = "\n".join(f"- {name}: {value}" for name, value in said.items())
    output.with_suffix(".md").write_text(f"# Two ranks against one\n\n{lines}\n\n{text}\n")


# --- what runs in a process of diffusers ----------------------------------------------------------------------------


def serve_diffusers(checkpoint: str, request: Request, layout: str, rank: int, core: int, store: str) -> None:
    """Load, then make a video for every line on stdin."""
    import torch
    import torch.distributed as dist
    from diffusers import ContextParallelConfig, WanPipeline

    from versus_diffusers import write_mp4

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    pipeline = WanPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if layout != "u1r1":
        dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
        torch.accelerator.device_count = lambda: 2  # diffusers numbers ranks by accelerators, also where there are none
        give_native_attention_its_lse()
        degree = {"ring_degree": 2} if layout == "u1r2" else {"ulysses_degree": 2}
        pipeline.transformer.enable_parallelism(config=ContextParallelConfig(**degree))
    taken: Seconds = {}
    watch(pipeline.vae, "decode", taken, "Decoding")
    watch(pipeline.transformer, "forward", taken, "Denoising")
    print("{}", flush=True)
    for turn in sys.stdin:
        taken.clear()
        start = time.perf_counter()
        video = pipeline(
            prompt=f"{PROMPT} {turn.strip()}",
            negative_prompt=f"{NEGATIVE} {turn.strip()}",
            generator=torch.Generator().manual_seed(request["seed"]),
            **{name: value for name, value in request.items() if name != "seed"},
        ).frames[0]
        if rank == 0:
            write_mp4((video * 255).round().astype("uint8"), request)
        print(json.dumps(taken | {"Total": time.perf_counter() - start}), flush=True)


def watch(owner: Any, name: str, taken: Seconds, stage: str) -> None:
    """Add up the seconds of a method."""
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        taken[stage] = taken.get(stage, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, name, timed)


def give_native_attention_its_lse() -> None:
    """diffusers' ring wants a kernel that returns the log-sum-exp, and has none for CPUs: PyTorch's own does it."""
    import torch
    from diffusers.models import attention_dispatch

    def forward(ctx: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        return_lse = args[5] if len(args) > 5 else kwargs.get("return_lse", False)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        out, lse = out.transpose(1, 2), lse.transpose(1, 2)
        return (out, lse) if return_lse else out

    attention_dispatch._native_attention_forward_op = forward


if __name__ == "__main__":
    if sys.argv[1:2] == ["--diffusers"] and len(sys.argv) == 8:
        checkpoint, request, layout, rank, core, store = sys.argv[2:]
        serve_diffusers(checkpoint, json.loads(request), layout, int(rank), int(core), store)
    else:
        main()
