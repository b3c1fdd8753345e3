"""Ringlight beside diffusers: seconds and memory of the same work on the same weights, one thread each.

    python benchmarks/versus_diffusers.py [--runs 5] [--only forward_t2v decode ...] [--output benchmarks/results]
    python benchmarks/versus_diffusers.py --self-test

For every measure two fresh processes load the small demo checkpoint, one with each library. The first run of each
gives the growth of peak resident memory over the loaded, idle process; then both take turns, one working while the
other waits, and medians and the ratio of each pair are printed. Both sides write the same mp4 with the same encoder.
The self-test does all measures in the same two processes, so that growth means nothing there either.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conditions import conditions
from demo import add_checkpoint, add_self_test, demo_checkpoint, name_of

PROMPT, NEGATIVE = "a boat crosses a bridge at night, cinematic lighting", "blurry, low quality"
SEED = 7
TARGETS = {
    "forward_t2v": 0.92,
    "forward_i2v": 0.92,
    "decode": 0.65,
    "generate_t2v": 0.80,
    "generate_i2v": 0.80,
}
GROWTH_TARGET = 0.6
MEASURES = (*TARGETS, "encode_image")


@dataclass(frozen=True)
class Work:
    """How much is done: the grid of latents (frames, height, width) that a forward denoises, how many latent frames
    of that height and width are decoded, and what is generated."""

    grid: tuple[int, int, int] = (8, 20, 32)
    decode_latents: int = 5
    width: int = 512
    height: int = 320
    num_frames: int = 17
    num_inference_steps: int = 10
    guidance_scale: float = 5.0

    @property
    def tokens(self) -> int:
        frames, height, width = self.grid
        return frames * height * width // 4

    @property
    def generation(self) -> dict[str, Any]:
        """Fields of a request."""
        names = ("width", "height", "num_frames", "num_inference_steps", "guidance_scale")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return (
            f"{self.width}x{self.height}, {self.num_frames} frames, {self.num_inference_steps} steps, "
            f"guidance {self.guidance_scale:g}"
        )


SELF_TEST = Work((2, 2, 2), 2, 32, 32, 5, 1)


class Contender:
    """A process that has loaded one library and does a measure on demand."""

    def __init__(self, library: str, checkpoint: Path, work: Work) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", library, str(checkpoint), json.dumps(asdict(work))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def run(self, measure: str) -> dict[str, float]:
        """One run: {"seconds", "growth_bytes"}, and "floor_seconds" where the measure has a floor."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(measure, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise RuntimeError(f"the process ended with {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def two_contenders(checkpoint: Path, work: Work) -> Iterator[dict[str, Contender]]:
    """Two fresh processes."""
    contenders = {library: Contender(library, checkpoint, work) for library in ("ringlight", "diffusers")}
    try:
        yield contenders
    finally:
        for contender in contenders.values():
            contender.close()


def compare(measure: str, contenders: dict[str, Contender], runs: int) -> dict[str, Any]:
    """Medians, ratio and growth of one measure, the two contenders in turn."""
    growth = {library: contender.run(measure)["growth_bytes"] for library, contender in contenders.items()}
    taken: dict[str, list[dict[str, float]]] = {library: [] for library in contenders}
    for turn in range(runs):
        order = list(contenders.items())
        for library, contender in order if turn % 2 == 0 else reversed(order):
            taken[library].append(contender.run(measure))
    seconds = {library: [run["seconds"] for run in done] for library, done in taken.items()}
    ours, theirs = seconds["ringlight"], seconds["diffusers"]
    result = {
        "measure": measure,
        "ringlight_seconds": statistics.median(ours),
        "diffusers_seconds": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "ratio_range": [f(a / b for a, b in zip(ours, theirs, strict=True)) for f in (min, max)],
        "target": TARGETS.get(measure),
        "ringlight_growth_bytes": growth["ringlight"],
        "diffusers_growth_bytes": growth["diffusers"],
        "growth_ratio": growth["ringlight"] / max(1.0, growth["diffusers"]),
        "runs": runs,
    }
    floors = [run["floor_seconds"] / run["seconds"] for run in taken["ringlight"] if "floor_seconds" in run]
    if floors:
        result["share_in_products_and_attention"] = statistics.median(floors)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| Measure | Ringlight (s) | diffusers (s) | Ratio (range) | Goal | Growth (MiB) | Growth ratio | Goal |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results:
        low, high = row["ratio_range"]
        growth = f"{row['ringlight_growth_bytes'] / 2**20:.0f} / {row['diffusers_growth_bytes'] / 2**20:.0f}"
        target = f"{row['target']:.2f}" if row["target"] else "-"
        lines.append(
            f"| {row['measure']} | {row['ringlight_seconds']:.3f} | {row['diffusers_seconds']:.3f} "
            f"| {row['ratio']:.3f} ({low:.3f}-{high:.3f}) | {target} | {growth} | {row['growth_ratio']:.2f} "
            f"| {GROWTH_TARGET:.2f} |"
        )
    for row in results:
        if "share_in_products_and_attention" in row:
            share = row["share_in_products_and_attention"]
            lines.append(f"\n{row['measure']}: {share:.0%} of the forward is its matrix products and attention alone.")
    return "\n".join(lines)


def main() -> None:
    """Compare, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--output", type=Path, help="folder for versus_diffusers.json and .md")
    add_self_test(parser)
    add_checkpoint(parser)
    options = parser.parse_args()
    work, size, runs = (SELF_TEST, "tiny", 1) if options.self_test else (Work(), "small", options.runs)
    results = []
    with demo_checkpoint(size, options.checkpoint) as checkpoint:
        said = conditions() | {
            "threads": 1,
            "checkpoint": name_of(checkpoint),
            "tokens": work.tokens,
            "latent_frames_decoded": work.decode_latents,
            "generation": str(work),
        }
        for measures in [options.only] if options.self_test else [[measure] for measure in options.only]:
            with two_contenders(checkpoint, work) as contenders:
                for measure in measures:
                    results.append(compare(measure, contenders, runs))
                    print(table(results[-1:]).splitlines()[2], flush=True)
                    if options.output:
                        write(said, results, options.output)
    print("\n" + table(results))


def write(said: dict[str, Any], results: list[dict[str, Any]], folder: Path) -> None:
    """What is measured so far, as JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"conditions": said, "results": results}
    (folder / "versus_diffusers.json").write_text(json.dumps(document, indent=2) + "\n")
    said = "\n".join(f"- {name}: {value}" for name, value in document["conditions"].items())
    (folder / "versus_diffusers.md").write_text(f"# Ringlight beside diffusers\n\n{said}\n\n{table(results)}\n")


# --- what runs in a contender's process -------------------------------------------------------------------------


def serve(library: str, checkpoint: str, work: Work) -> None:
    """Do the measure that each line on stdin names, once; what it needs is loaded and prepared before."""
    import torch

    from ringlight.worker.memory import ResidentMeter

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    load = load_ringlight if library == "ringlight" else load_diffusers
    measures = load(checkpoint, work)
    meter = ResidentMeter()
    prepared: dict[str, Prepared] = {}
    for line in sys.stdin:
        measure = line.strip()
        if measure not in prepared:
            prepared[measure] = measures(measure)
        run, floor = prepared[measure]
        meter.start()
        start = time.perf_counter()
        run()
        answer = {"seconds": time.perf_counter() - start}
        answer["growth_bytes"] = meter.report().resident_growth_bytes or 0
        if floor is not None:
            start = time.perf_counter()
            floor()
            answer["floor_seconds"] = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


Prepared = tuple[Callable[[], object], Callable[[], object] | None]  # what is measured, and its floor
Measures = Callable[[str], Prepared]


def inputs(work: Work, text_dim: int) -> tuple[Any, Any, Any]:
    """(latents to denoise, 30 rows of text, latents to decode), the same for both libraries."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn(1, 48, *work.grid, generator=generator)
    text = torch.randn(30, text_dim, generator=generator)
    return latents, text, torch.randn(1, 48, work.decode_latents, *work.grid[1:], generator=generator)


def photograph(work: Work) -> Any:
    """A real picture, fitted to the size asked."""
    import matplotlib
    from PIL import Image

    from ringlight.core.picture import fit_picture

    return fit_picture(
        Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"), work.width, work.height
    )


def load_ringlight(checkpoint: str, work: Work) -> Measures:
    import torch

    from ringlight.core.config import EngineConfig, read_defaults
    from ringlight.core.request import RequestLimits
    from ringlight.families.wan.recipe import WanRecipe
    from ringlight.parallel.halo import Bands
    from ringlight.parallel.mesh import ParallelMesh
    from ringlight.pipelines.stages.text_encoding import PromptCache
    from ringlight.pipelines.trace import Tracer

    config = EngineConfig(model_path=checkpoint, num_threads=1)
    cpu = torch.device("cpu")
    pipeline = WanRecipe(config, RequestLimits(), cpu, torch.float32, torch.float32)
    latents, text, to_decode = inputs(work, pipeline.spec.transformer.text_dim)

    def decode() -> None:
        stream = pipeline.vae.start_decoding(
            Bands.alone(to_decode.shape[3]), to_decode.shape[4], work.decode_latents, to_decode.device
        )
        for i in range(work.decode_latents):
            pipeline.vae.decode_next(to_decode[0, :, i : i + 1], stream, first=i == 0)

    def generate(image: bytes | None) -> None:
        fields = {"negative_prompt": NEGATIVE, "seed": SEED, "image": image} | work.generation
        request = read_defaults(Path(checkpoint)).complete(PROMPT, pipeline.spec, **fields)
        pipeline.prompts = PromptCache(pipeline.prompts.encoder, 2**30)  # encode prompts anew, as diffusers does
        with tempfile.TemporaryDirectory() as folder:
            pipeline.run(request, Path(folder) / "video.mp4", "job", Tracer(cpu, NoMeter(), Silent()))

    def prepare(measure: str) -> Prepared:
        if measure.startswith("forward"):
            keys = pipeline.transformer.text_keys(text, 512)
            times = torch.tensor([500.0] if measure == "forward_t2v" else [0.0, 500.0])
            mesh = ParallelMesh.alone()
            return lambda: pipeline.transformer(latents, times, keys, pipeline.kernel, mesh), floor_of(pipeline, work)
        if measure == "encode_image":
            pixels = pixels_of(photograph(work))
            return lambda: pipeline.vae.encode(pixels), None
        if measure == "decode":
            return decode, None
        image = encoded(photograph(work)) if measure == "generate_i2v" else None
        return lambda: generate(image), None

    return prepare


def load_diffusers(checkpoint: str, work: Work) -> Measures:
    import torch
    from diffusers import WanImageToVideoPipeline, WanPipeline

    def generate(pipeline: Any, arguments: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(SEED)
        fields = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "generator": generator} | work.generation | arguments
        video = pipeline(**fields).frames[0]
        write_mp4((video * 255).round().astype("uint8"), work.generation)

    @cache
    def load(kind: Any) -> Any:
        pipeline = kind.from_pretrained(checkpoint, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def prepare(measure: str) -> Prepared:
        pipeline = load(WanImageToVideoPipeline if measure == "generate_i2v" else WanPipeline)
        latents, text, to_decode = inputs(work, pipeline.transformer.config.text_dim)
        if measure.startswith("forward"):
            padded = torch.zeros(1, 512, text.shape[-1])
            padded[0, : len(text)] = text
            frames, height, width = work.grid
            times = torch.full((1, frames, height // 2, width // 2), 500.0)
            if measure == "forward_i2v":
                times[:, 0] = 0
            return lambda: pipeline.transformer(latents, times.flatten(1), padded, return_dict=False), None
        if measure == "encode_image":
            pixels = pixels_of(photograph(work)).permute(3, 0, 1, 2).unsqueeze(0).contiguous()
            return lambda: pipeline.vae.encode(pixels), None
        if measure == "decode":
            return lambda: pipeline.vae.decode(to_decode, return_dict=False), None
        arguments = {"image": photograph(work)} if measure == "generate_i2v" else {}
        return lambda: generate(pipeline, arguments), None

    return prepare


class NoMeter:
    """Measures nothing: stages would reset the peak that `serve` reads at the end of a run."""

    def reset(self) -> None: ...

    def peak_bytes(self) -> int:
        return 0


class Silent:
    """Events that nobody listens to."""

    turn_ends = False

    def stage_started(self, stage: str) -> None: ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def boundary(self, problem: Exception | None = None) -> None:
        self.check_problem(problem)

    def check_problem(self, problem: Exception | None) -> None:
        if problem is not None:
            raise problem


def floor_of(pipeline: Any, work: Work) -> Callable[[], None]:
    """The matrix products and the attention of a forward alone, on the sizes of the measure."""
    import torch

    spec = pipeline.spec.transformer
    tokens, dim = work.tokens, spec.inner_dim
    x, wide = torch.randn(1, tokens, dim), torch.randn(1, tokens, spec.ffn_dim)
    qkv = torch.randn(1, tokens, 3 * dim).unflatten(-1, (-1, spec.attention_head_dim)).chunk(3, dim=2)
    text = torch.randn(1, 30, spec.num_attention_heads, spec.attention_head_dim)

    def floor() -> None:
        for block in pipeline.transformer.blocks:
            block.attn1.to_qkv(x)
            pipeline.kernel(*qkv)
            for linear in (block.attn1.to_out, block.attn2.to_q, block.attn2.to_out, block.ffn.up):
                linear(x)
            pipeline.kernel(qkv[0], text, text)
            block.ffn.down(wide)

    return floor


def pixels_of(picture: Any) -> Any:
    """A picture as (1, H, W, 3) in [-1, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(picture, dtype=np.float32).copy()).unsqueeze(0) / 127.5 - 1


def encoded(picture: Any) -> bytes:
    """A picture as the bytes of a PNG."""
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_mp4(frames: Any, fields: dict[str, Any]) -> None:
    """Encode frames, made with these fields of a request, as Ringlight does."""
    from ringlight.core.request import VideoRequest
    from ringlight.pipelines.comment import comment_of
    from ringlight.pipelines.output import encode_video

    others: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "", "fps": 24, "flow_shift": 5.0, "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        request = VideoRequest(**others | fields)
        encode_video(iter(frames), Path(folder) / "video.mp4", request, None, comment_of(request))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        library, checkpoint, told = sys.argv[2:]
        serve(library, checkpoint, Work(**json.loads(told)))
    else:
        main()
