"""`ringlight generate`, the real command: every kind of output opened again, and what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from ringlight import Engine
from ringlight.core.report import SCHEMA_VERSION, workload_hash
from tests.cli.commands import Done, program, together

pytestmark = pytest.mark.slow

PROMPT = "a lighthouse in the fog"
WIDTH, HEIGHT, FRAMES, FPS, SEED = 64, 96, 5, 12, 7
SCARCE = ("--memory-budget", "1MiB", "--no-memory-check")
"""As little in a rank's own memory as may be."""
LONG = f"{PROMPT}, in a storm " * 120
"""More than a text encoder reads."""
STAGES = {"InputValidation", "TextEncoding", "LatentPreparation", "TimestepPreparation", "Denoising"}


class Outputs:
    """What the commands of this file left: their folder, and what each of them printed."""

    def __init__(self, folder: Path, done: dict[str, Done]) -> None:
        self.folder = folder
        self.done = done


def make(engine: Engine, output: Path, num_frames: int = FRAMES) -> None:
    """The video of the commands, made from Python."""
    request = engine.request(
        PROMPT,
        negative_prompt="blurry",
        width=WIDTH,
        height=HEIGHT,
        num_frames=num_frames,
        fps=FPS,
        num_inference_steps=2,
        seed=SEED,
    )
    engine.submit(request, str(output)).wait(60)


@pytest.fixture(scope="module")
def outputs(tiny: Path, engine: Engine, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """One command for each kind of output, but for two that are made from Python: a command takes seconds to start."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "frames").mkdir()
    flags: list[object] = ["--model-path", tiny, "--prompt", PROMPT, "--negative-prompt", "blurry", "--num-threads", 1]
    flags += ["--num-inference-steps", 2, "--seed", SEED, "--fps", FPS]
    size: list[object] = ["--width", WIDTH, "--height", HEIGHT]
    several = [*flags, "--num-frames", FRAMES]
    commands: dict[str, list[object]] = {
        "film.npy": [*several, *size, "--report", folder / "report.json", "--decode-chunk", "2", *SCARCE],
        "film.mp4": [*several, "--size", f"{WIDTH}x{HEIGHT}"],
        "film.gif": [*several, *size, "--json"],
        "film.safetensors": [
            *several,
            "--size",
            "70x100",
            "--round-sizes",
            "--image-path",
            photograph,
            "--prompt",
            LONG,
        ],
        "frames/%03d.png": [*several, *size, "--quiet"],
    }
    done = together(["generate", *arguments, "-o", folder / name] for name, arguments in commands.items())
    make(engine, folder / "film.webm")
    make(engine, folder / "frame.png", num_frames=1)
    return Outputs(folder, dict(zip(commands, done, strict=True)))


@pytest.fixture(scope="module")
def frames(outputs: Outputs) -> NDArray[np.float32]:
    """The frames before any codec, as 0 to 255."""
    array: NDArray[np.float32] = np.load(outputs.folder / "film.npy") * 255
    return array


def test_every_command_succeeds(outputs: Outputs) -> None:
    assert {name: (done.code, done.err if done.code else "") for name, done in outputs.done.items()} == dict.fromkeys(
        outputs.done, (0, "")
    )
    expected = {name for name in outputs.done if "%" not in name} | {"report.json", "frames", "film.webm", "frame.png"}
    assert {path.name for path in outputs.folder.iterdir()} == expected


def test_npy_is_the_same_as_from_python(outputs: Outputs, engine: Engine, tmp_path: Path) -> None:
    """Another process, which has made other videos before: the same bytes."""
    make(engine, tmp_path / "film.npy")
    assert (tmp_path / "film.npy").read_bytes() == (outputs.folder / "film.npy").read_bytes()
    array = np.load(outputs.folder / "film.npy")
    assert (array.shape, array.dtype) == ((FRAMES, HEIGHT, WIDTH, 3), np.float32)
    assert 0 <= array.min() < array.max() <= 1


@pytest.mark.parametrize(("name", "codec"), [("film.mp4", "h264"), ("film.webm", "vp9")])
def test_videos_have_size_rate_frames_and_colours(
    outputs: Outputs, frames: NDArray[np.float32], name: str, codec: str
) -> None:
    with av.open(str(outputs.folder / name)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name in (codec, f"libvpx-{codec}")
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert stream.average_rate == FPS
        decoded = list(container.decode(video=0))
    assert len(decoded) == FRAMES
    assert [round(picture.time * FPS) for picture in decoded] == list(range(FRAMES))
    assert {(picture.format.name, picture.colorspace, picture.color_range) for picture in decoded} == {
        ("yuv420p", 1, 1)  # BT.709, limited range
    }
    seen = np.stack([picture.to_ndarray()[:HEIGHT, :WIDTH].astype(float) for picture in decoded])
    expected = luma(frames, BT709)
    distances = np.abs(seen[:, None] - expected[None]).mean((2, 3))
    assert distances.argmin(1).tolist() == list(range(FRAMES))
    assert distances.diagonal().max() < 5  # a texture of noise, hard for a codec; other frames are at 20 and more
    assert distances.trace() < np.abs(seen - luma(frames, BT601)).mean((1, 2)).sum()


BT709, BT601 = (0.2126, 0.7152, 0.0722), (0.299, 0.587, 0.114)


def luma(frames: NDArray[np.float32], weights: tuple[float, float, float]) -> NDArray[np.float64]:
    """The luma plane of limited range."""
    plane: NDArray[np.float64] = 16 + 219 / 255 * (frames.astype(np.float64) @ np.array(weights))
    return plane


def test_a_gif_has_size_frames_and_pace(outputs: Outputs, frames: NDArray[np.float32]) -> None:
    with Image.open(outputs.folder / "film.gif") as picture:
        assert (picture.format, picture.size, picture.n_frames) == ("GIF", (WIDTH, HEIGHT), FRAMES)
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == 80  # 1/12 s in the format's hundredths
        for number in range(FRAMES):
            picture.seek(number)
            seen = np.asarray(picture.convert("RGB"), float)
            assert np.abs(seen - frames[number]).mean() < 15  # other frames are at 30 and more


def test_numbered_pictures_are_the_frames(outputs: Outputs, frames: NDArray[np.float32]) -> None:
    paths = sorted((outputs.folder / "frames").iterdir())
    assert [path.name for path in paths] == [f"{number:03d}.png" for number in range(FRAMES)]
    seen = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert seen.dtype == np.uint8
    assert np.abs(seen - frames).max() <= 0.501  # rounded to nearest
    last_line = outputs.done["frames/%03d.png"].out.splitlines()[-1]
    assert last_line == f"{paths[0]} ... {paths[-1]}"


def test_a_single_picture(outputs: Outputs) -> None:
    with Image.open(outputs.folder / "frame.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (WIDTH, HEIGHT))
        assert np.asarray(picture).std() > 1


def test_latents(outputs: Outputs) -> None:
    tensors = safetensors.numpy.load_file(outputs.folder / "film.safetensors")
    assert list(tensors) == ["latents"]
    assert (tensors["latents"].shape, tensors["latents"].dtype) == ((1, 48, 2, 6, 4), np.float32)
    assert np.isfinite(tensors["latents"]).all()


def test_the_report_goes_to_stdout_as_a_table_and_progress_to_stderr(outputs: Outputs) -> None:
    for name in ("film.npy", "film.mp4"):
        done = outputs.done[name]
        table = done.out.split("\n\n")[0].splitlines()
        summary = [line for line in done.out.splitlines() if not line.startswith("placed: ")][-2:]
        assert table[0].startswith("| Stage | Seconds |")
        assert {line.split("|")[1].strip() for line in table[2:]} == STAGES | {
            "Decoding",
            "Output",
            "Other",
            "**Total**",
        }
        assert f"{WIDTH}x{HEIGHT}, {FRAMES} frames, 2 steps, guidance 5, seed {SEED}; 12 tokens" in summary[0]
        assert summary[1] == str(outputs.folder / name)
        assert all(stage in done.err for stage in STAGES)
        assert "Stage" not in done.err
        assert "Traceback" not in done.err


def test_where_things_lay_is_told_where_not_all_was_there(outputs: Outputs) -> None:
    """The frames are those of an engine without a budget (`test_npy_is_the_same_as_from_python`)."""
    placed = "placed: 3 blocks of the transformer and the decoder from the host as needed"
    assert placed in outputs.done["film.npy"].out.splitlines()
    assert "placed" not in outputs.done["film.mp4"].out


def test_quiet_says_nothing_but_the_report(outputs: Outputs) -> None:
    for done in outputs.done.values():
        assert "\x1b" not in done.out + done.err
    assert outputs.done["frames/%03d.png"].err == ""
    assert outputs.done["frames/%03d.png"].out.startswith("| Stage |")


def test_what_is_not_as_it_was_asked_is_told(outputs: Outputs) -> None:
    """On the terminal as soon as it is known, each thing once, and with the result."""
    done = outputs.done["film.safetensors"]
    for text in (done.out, done.err):
        notes = [line for line in text.splitlines() if line.startswith("note: ")]
        assert [note.split(" ")[2] for note in notes] == ["size", "the", "prompt"]
        size, picture, prompt = notes
        assert "64x96 instead of 70x100" in size
        assert "of the picture's 512x600 pixels the middle 400x600 are used: 22% of its width is cut" in picture
        assert re.search(r"has \d{3,} tokens and the text encoder reads the first 512", prompt)
    assert done.err.index("note: the size") < done.err.index("InputValidation")
    assert "note:" not in outputs.done["film.mp4"].out + outputs.done["film.mp4"].err


def test_json_is_all_that_stdout_holds(outputs: Outputs) -> None:
    report = json.loads(outputs.done["film.gif"].out)
    check_report(report, outputs.folder / "film.gif")
    assert "Denoising" in outputs.done["film.gif"].err


def test_a_report_can_be_written_too(outputs: Outputs) -> None:
    report = json.loads((outputs.folder / "report.json").read_text())
    check_report(report, outputs.folder / "film.npy")
    assert (report["num_slices"], report["decode_chunk"]) == (1, 2)
    assert outputs.done["film.npy"].out.startswith("| Stage |")


def check_report(report: dict[str, Any], output: Path) -> None:
    assert report["outputs"] == [str(output)]
    assert sum(stage["seconds"] for stage in report["stages"]) + report["other_seconds"] == pytest.approx(
        report["total_seconds"]
    )
    assert (report["workload"]["fps"], report["workload"]["seed"]) == (FPS, SEED)
    assert (report["workload"]["width"], report["workload"]["height"]) == (WIDTH, HEIGHT)
    assert report["workload"]["negative_prompt"] == "blurry"
    assert report["workload_hash"] == workload_hash(report["workload"])
    assert len(report["step_seconds"]) == 2
    assert report["environment"]["num_threads"] == 1
    assert (report["num_tokens"], report["layout"], report["schema_version"]) == (12, "u1r1", SCHEMA_VERSION)


def test_a_first_frame_has_its_own_stage(outputs: Outputs) -> None:
    assert "| ImageEncoding |" in outputs.done["film.safetensors"].out
    assert "| ImageEncoding |" not in outputs.done["film.npy"].out


def test_workers_import_no_compiler(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's, and the sympy under it, take longer to import than all else that a worker needs beside torch."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    small = ["--width", 64, "--height", 64, "--num-frames", 5, "--num-inference-steps", 2, "--num-gpus", 2]
    output = ["--prompt", PROMPT, "--output", tmp_path / "film.mp4"]
    done = program("generate", "--model-path", tiny, *small, *output)
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert {"torch", "torch.distributed", "ringlight.parallel.attention", "ringlight.samplers.unipc"} <= imported
    assert not imported & {"torch._dynamo", "sympy", "diffusers", "transformers"}
