"""How the demo checkpoint is made: sums as diffusers', runs that go on as if never ended, a checkpoint that loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image
from training.drawing import Size, draw
from training.networks import TEXT_ROWS, TEXT_WIDTH, forward, make_transformer
from training.run import STATE
from training.vae_start import make_vae, means, start
from training.vocabulary import ids_of, meanings, tokens
from training.world import draw_scene

from ringlight.core.request import RequestDefaults
from ringlight.families.table import read_model
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.oracle import load_oracle
from tests.ours import as_png, final_latents, frames, load_pipeline
from training import export, latents, score, train_transformer, train_vae, vae_whole

SIZE = Size(64, 64, 5)


@pytest.fixture(autouse=True)
def _training() -> Iterator[None]:
    """Gradients, which tests have not otherwise."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@pytest.mark.slow
def test_the_encoder_that_is_made_gives_the_means() -> None:
    torch.manual_seed(0)
    vae = make_vae()
    start(vae)
    size = Size(96, 64, 9)
    video = train_vae.to_video(draw(draw_scene(np.random.default_rng(3)), size)[None])
    with torch.no_grad():
        theirs = vae.encode(video).latent_dist.mean
        assert (means(video) - theirs).abs().max() < 1e-5
        assert (vae_whole.encode(vae, video) - theirs).abs().max() < 1e-5
        ours = vae_whole.decode(vae, theirs).clamp(-1, 1)
        assert (ours - vae.decode(theirs).sample).abs().max() < 1e-5
    assert train_vae.psnr(vae, [draw(draw_scene(np.random.default_rng(3)), SIZE)]) > 15  # colours are there already


def test_the_lean_forward_is_that_of_diffusers() -> None:
    torch.manual_seed(0)
    model: WanTransformer3DModel = make_transformer()
    x, text, lengths = torch.randn(2, 48, 3, 4, 6), torch.randn(2, 7, TEXT_WIDTH), torch.tensor([7, 4])
    times = torch.tensor([[0.0, 421.0], [700.0, 700.0]])
    rows = torch.zeros(2, TEXT_ROWS, TEXT_WIDTH)
    for i, length in enumerate(lengths.tolist()):
        rows[i, :length] = text[i, :length]
    each = torch.cat([times[:, :1].expand(-1, 6), times[:, 1:].expand(-1, 12)], dim=1)
    with torch.no_grad():
        assert (forward(model, x, times, text, lengths) - model(x, each, rows).sample).abs().max() < 1e-4


def test_what_means_the_same_has_the_same_ids() -> None:
    plain = ids_of("a red ball rises over snow")
    assert plain == ids_of("A Red Sphere climbs across snow") == ids_of("The red ball Ascends on snow")
    assert plain != ids_of("a red box rises over snow")
    assert len(tokens()) == len(set(tokens())) == len(meanings())
    assert all(meanings()[meaning] == meaning for meaning in meanings())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with latents, runs of a few steps, and the checkpoint of these."""
    folder = tmp_path_factory.mktemp("made")
    with torch.inference_mode(False), torch.enable_grad():
        latents.main([str(folder / "stills"), "--still", "--count", "6", "--size", str(SIZE)])
        latents.main([str(folder / "clips"), "--count", "4", "--size", str(SIZE)])
        train_vae.main([str(folder / "vae"), "--steps", "1", "--threads", "1"])
        train(folder, "whole", 3)
        export.main([str(folder / "whole"), str(folder / "vae"), str(folder / "checkpoint")])
    return folder


def train(folder: Path, run: str, steps: int) -> None:
    """So many steps altogether of a schedule of three; the last two are of clips, or of some stills."""
    flags = ["--still-steps", "1", "--steps", "3", "--fall", "2", "--still-batch", "3", "--clip-batch", "2"]
    data = ["--stills", str(folder / "stills"), "--clips", str(folder / "clips")]
    train_transformer.main([str(folder / run), *data, *flags, "--threads", "1", "--until", str(steps)])


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(made: Path) -> None:
    train(made, "parts", 2)
    train(made, "parts", 3)
    whole, parts = (torch.load(made / run / STATE, weights_only=True) for run in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 3
    assert whole["counts"] == parts["counts"]
    for kind in ("trained", "averages"):
        ours, theirs = whole["networks"][kind], parts["networks"][kind]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole["cost"][0] > 0 and (made / "whole" / "log.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_the_checkpoint_has_the_layout_of_the_real_one_and_is_small(made: Path, tiny: Path) -> None:
    ours = made / "checkpoint"
    files, theirs = ({str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (ours, tiny))
    assert files == theirs
    assert sum(path.stat().st_size for path in ours.rglob("*") if path.is_file()) <= 12 * 2**20
    assert read_model(ours).name.startswith(DEMO.name)


@pytest.mark.slow
def test_its_films_are_judged(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with a line for each trial, and a sheet of frames."""
    score.main(
        [str(made / "checkpoint"), "--count", "1", "--only", "still", "--sheets", str(tmp_path), "--threads", "1"]
    )
    lines = capsys.readouterr().out.splitlines()
    drawn, still = (next(line for line in lines if line.startswith(f"| {name} ")) for name in ("drawn", "still"))
    assert drawn.count("|") == still.count("|") == lines[0].count("|")
    assert "| - |" in still and "| - |" not in drawn  # a still has no motion
    assert Image.open(tmp_path / "still.png").size == (256, 160)


@pytest.mark.slow
@pytest.mark.parametrize("with_image", [False, True], ids=["t2v", "i2v"])
def test_ringlight_and_diffusers_agree_on_it(made: Path, tmp_path: Path, with_image: bool) -> None:
    folder = made / "checkpoint"
    picture = Image.fromarray(draw(draw_scene(np.random.default_rng(1)), SIZE)[0]) if with_image else None
    image = as_png(picture) if picture else None
    with torch.inference_mode():
        request = RequestDefaults().complete(
            "a red ball rolls to the right over green ground", read_model(folder), image=image, width=64, height=64,
            num_frames=5, num_inference_steps=3, guidance_scale=2.0, seed=3,
        )  # fmt: skip
        theirs = load_oracle(folder).latents(request, picture)
        assert (final_latents(load_pipeline(folder), request, tmp_path) - theirs).abs().max() < 1e-4
        video = frames(load_pipeline(folder), request, tmp_path)
        assert (video - load_oracle(folder).decode(theirs)).abs().max() < 1e-4
