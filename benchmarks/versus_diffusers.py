"""Ringlight beside diffusers: seconds and memory of the same work on the same weights, one thread each.

    python benchmarks/versus_diffusers.py [--runs 5] [--only forward_t2v decode ...] [--output benchmarks/results]

For every measure two fresh processes load the small demo checkpoint, one with each library. The first run of each
gives the growth of peak resident memory over the loaded, idle process; then both take turns, one working while the
other waits, and medians and the ratio of each pair are printed. Both sides write the same mp4 with the same encoder.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conditions import conditions

TOKENS_GRID = (8, 20, 32)  # latent frames, height, width: 1,280 tokens
DECODE_LATENTS = 5
PROMPT, NEGATIVE = "a boat crosses a bridge at night, cinematic lighting", "blurry, low quality"
STEPS, FRAMES, GUIDANCE, SEED = 10, 17, 5.0, 7
TARGETS = {
    "forward_t2v": 0.92,
    "forward_i2v": 0.92,
    "decode": 0.65,
    "generate_t2v": 0.80,
    "generate_i2v": 0.80,
}
GROWTH_TARGET = 0.6
WORKLOAD = {
    "threads": 1,
    "checkpoint": "demo small",
    "tokens": 1280,
    "latent_frames_decoded": DECODE_LATENTS,
    "generation": "512x320, 17 frames, 10 steps, guidance 5",
}
MEASURES = (*TARGETS, "encode_image")


class Contender:
    """A process that has loaded one library and does one measure on demand."""

    def __init__(self, library: str, measure: str, checkpoint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", library, measure, checkpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def run(self) -> dict[str, float]:
        """One run: {"seconds", "growth_bytes"}, and "floor_seconds" where the measure has a floor."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("run", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise RuntimeError(f"the process ended with {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(measure: str, checkpoint: str, runs: int) -> dict[str, Any]:
    """Medians, ratio and growth of one measure, the two contenders in turn."""
    contenders = {library: Contender(library, measure, checkpoint) for library in ("ringlight", "diffusers")}
    try:
        growth = {library: contender.run()["growth_bytes"] for library, contender in contenders.items()}
        taken: dict[str, list[dict[str, float]]] = {library: [] for library in contenders}
        for turn in range(runs):
            order = list(contenders.items())
            for library, contender in order if turn % 2 == 0 else reversed(order):
                taken[library].append(contender.run())
    finally:
        for contender in contenders.values():
            contender.close()
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
        "growth_ratio": growth["ringlight"] / growth["diffusers"],
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
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "ringlight", "demo-checkpoint", folder, "--size", "small"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for measure in options.only:
            results.append(compare(measure, folder, options.runs))
            print(table(results[-1:]).splitlines()[2], flush=True)
            if options.output:
                write(results, options.output)
    print("\n" + table(results))


def write(results: list[dict[str, Any]], folder: Path) -> None:
    """What is measured so far, as JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"conditions": conditions() | WORKLOAD, "results": results}
    (folder / "versus_diffusers.json").write_text(json.dumps(document, indent=2) + "\n")
    said = "\n".join(f"- {name}: {value}" for name, value in document["conditions"].items())
    (folder / "versus_diffusers.md").write_text(f"# Ringlight beside diffusers\n\n{said}\n\n{table(results)}\n")


# --- what runs in a contender's process -------------------------------------------------------------------------


def serve(library: str, measure: str, checkpoint: str) -> None:
    """Load, then run the measure once for every line on stdin."""
    import torch

    from ringlight.worker.memory import ResidentMeter

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    work, floor = (ringlight_work if library == "ringlight" else diffusers_work)(measure, checkpoint)
    meter = ResidentMeter()
    for _ in sys.stdin:
        meter.start()
        start = time.perf_counter()
        work()
        answer = {"seconds": time.perf_counter() - start}
        answer["growth_bytes"] = meter.report().resident_growth_bytes or 0
        if floor is not None:
            start = time.perf_counter()
            floor()
            answer["floor_seconds"] = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


Work = tuple[Callable[[], object], Callable[[], object] | None]


def inputs() -> tuple[Any, Any, Any]:
    """(latents to denoise, 30 rows of text, latents to decode), the same for both libraries."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn(1, 48, *TOKENS_GRID, generator=generator)
    text = torch.randn(30, 256, generator=generator)
    return latents, text, torch.randn(1, 48, DECODE_LATENTS, *TOKENS_GRID[1:], generator=generator)


def photograph() -> Any:
    """A real picture, fitted to the size asked."""
    import matplotlib
    from PIL import Image

    from ringlight.core.picture import fit_picture

    return fit_picture(Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"), 512, 320)


def ringlight_work(measure: str, checkpoint: str) -> Work:
    import torch

    from ringlight.core.config import EngineConfig, read_defaults
    from ringlight.core.request import RequestLimits
    from ringlight.parallel.halo import Bands
    from ringlight.parallel.mesh import ParallelMesh
    from ringlight.pipelines.stages.text_encoding import PromptCache
    from ringlight.pipelines.trace import Tracer
    from ringlight.pipelines.wan22_ti2v import Wan22TI2V

    config = EngineConfig(model_path=checkpoint, num_threads=1)
    cpu = torch.device("cpu")
    pipeline = Wan22TI2V(config, RequestLimits(), cpu, torch.float32, torch.float32)
    latents, text, to_decode = inputs()
    if measure.startswith("forward"):
        keys = pipeline.transformer.text_keys(text, 512)
        times = torch.tensor([500.0] if measure == "forward_t2v" else [0.0, 500.0])
        mesh = ParallelMesh.alone()
        return lambda: pipeline.transformer(latents, times, keys, pipeline.kernel, mesh), floor_of(pipeline)
    if measure == "encode_image":
        pixels = pixels_of(photograph())
        return lambda: pipeline.vae.encode(pixels), None
    if measure == "decode":
        _, rows, columns = TOKENS_GRID

        def decode() -> None:
            stream = pipeline.vae.start_decoding(Bands.alone(rows), columns, DECODE_LATENTS)
            for i in range(DECODE_LATENTS):
                pipeline.vae.decode_next(to_decode[0, :, i : i + 1], stream, first=i == 0)

        return decode, None
    defaults = read_defaults(Path(checkpoint))
    image = encoded(photograph()) if measure == "generate_i2v" else None
    request = defaults.complete(
        PROMPT,
        pipeline.spec,
        negative_prompt=NEGATIVE,
        seed=SEED,
        image=image,
        num_inference_steps=STEPS,
        num_frames=FRAMES,
    )

    def generate() -> None:
        pipeline.prompts = PromptCache(pipeline.prompts.encoder, 2**30)  # encode prompts anew, as diffusers does
        with tempfile.TemporaryDirectory() as folder:
            pipeline.run(request, Path(folder) / "video.mp4", "job", Tracer(cpu, NoMeter(), Silent()))

    return generate, None


def diffusers_work(measure: str, checkpoint: str) -> Work:
    import torch
    from diffusers import WanImageToVideoPipeline, WanPipeline

    kind = WanImageToVideoPipeline if measure == "generate_i2v" else WanPipeline
    pipeline = kind.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    latents, text, to_decode = inputs()
    if measure.startswith("forward"):
        padded = torch.zeros(1, 512, 256)
        padded[0, : len(text)] = text
        frames, height, width = TOKENS_GRID
        times = torch.full((1, frames, height // 2, width // 2), 500.0)
        if measure == "forward_i2v":
            times[:, 0] = 0
        return lambda: pipeline.transformer(latents, times.flatten(1), padded, return_dict=False), None
    if measure == "encode_image":
        pixels = pixels_of(photograph()).permute(3, 0, 1, 2).unsqueeze(0).contiguous()
        return lambda: pipeline.vae.encode(pixels), None
    if measure == "decode":
        return lambda: pipeline.vae.decode(to_decode, return_dict=False), None
    arguments: dict[str, Any] = {"image": photograph()} if measure == "generate_i2v" else {}

    def generate() -> None:
        video = pipeline(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            width=512,
            height=320,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
            **arguments,
        ).frames[0]
        write_mp4((video * 255).round().astype("uint8"))

    return generate, None


class NoMeter:
    """Measures nothing: stages would reset the peak that `serve` reads at the end of a run."""

    def reset(self) -> None: ...

    def peak_bytes(self) -> int:
        return 0


class Silent:
    """Events that nobody listens to."""

    def stage_started(self, stage: str) -> None: ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def check_cancelled(self, problem: Exception | None = None) -> None:
        self.check_problem(problem)

    def check_problem(self, problem: Exception | None) -> None:
        if problem is not None:
            raise problem


def floor_of(pipeline: Any) -> Callable[[], None]:
    """The matrix products and the attention of a forward alone, on the sizes of the measure."""
    import torch

    spec = pipeline.spec.transformer
    tokens = TOKENS_GRID[0] * TOKENS_GRID[1] * TOKENS_GRID[2] // 4
    dim = spec.inner_dim
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


def write_mp4(frames: Any) -> None:
    """Encode frames as Ringlight does."""
    from ringlight.core.request import VideoRequest
    from ringlight.pipelines.output import encode_video

    request = VideoRequest(
        prompt=PROMPT,
        negative_prompt="",
        width=512,
        height=320,
        num_frames=FRAMES,
        fps=24,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        flow_shift=5.0,
        seed=SEED,
    )
    with tempfile.TemporaryDirectory() as folder:
        encode_video(iter(frames), Path(folder) / "video.mp4", request)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
