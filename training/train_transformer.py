"""Train transformer and text encoder: `python -m training.train_transformer RUN --stills LATENTS --clips LATENTS`.

The first `--still-steps` are of stills alone, which teach colour, shape and place at a fifth of the cost; then clips,
with some stills between. Cells of the solid weigh more than the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.drawing import Size, floor_of, path_of
from training.latents import Item, read_items
from training.networks import embed, forward, make_text_encoder, make_transformer, start_text_encoder, start_transformer
from training.run import Run, Schedule, draws, fast, optimisers_of, split
from training.vocabulary import ids_of

RATES = [2e-3, 0.02]  # of AdamW and Muon
SHIFT, SPREAD = 5.0, 1.1  # of sigma's distribution: logit-normal, moved towards noise
UNSAID, PICTURED = 0.1, 0.4  # shares of prompts left out, and of clips whose first frame is given
PADDING_STEPS = 300  # until the padding weighs what it does when the model is used
SOLID_WEIGHT = 5.0
STILLS_LATER = 0.1  # share of steps with stills, once there are clips
SMALLEST_DEVIATION = 0.5  # of a channel, as a share of the largest: details stay quieter than colours
AVERAGED = 0.998  # how much of the averaged weights each step keeps
CELL = 16


class Latents:
    """Latents of one size with their captions, normalised, and the weights of their cells."""

    def __init__(self, files: list[Path], mean: Tensor, std: Tensor) -> None:
        stored = [torch.load(file, weights_only=True) for file in files]
        self.latents = torch.cat([((s["latents"].float() - mean) / std).half() for s in stored])
        self.items = [item for s in stored for item in read_items(s["items"])]
        size = Size.read(stored[0]["size"])
        self.weights = torch.stack([weights_of(item, size) for item in self.items]).half()

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, list[str]]:
        """Latents (B, 48, F, h, w), weights (B, 1, F, h, w), captions."""
        chosen = rng.integers(len(self.items), size=count)
        texts = ["" if rng.random() < UNSAID else self.items[i].caption for i in chosen]
        index = torch.from_numpy(chosen)
        return self.latents[index].float(), self.weights[index].float().unsqueeze(1), texts


def weights_of(item: Item, size: Size) -> Tensor:
    """(F, h, w): `SOLID_WEIGHT` where the solid is, 1 elsewhere."""
    frames = range(size.frames) if item.frame is None else [item.frame]
    latent = {frame: (frame + 3) // 4 if item.frame is None else 0 for frame in frames}
    weights = torch.ones(max(latent.values()) + 1, size.height // CELL, size.width // CELL)
    path, radius = path_of(item.scene, size), item.scene.radius * size.height
    for frame in frames:
        x, bottom = path[frame, 0], floor_of(item.scene, size) - path[frame, 1] + 0.2 * radius
        rows = slice(max(int((bottom - 2.2 * radius) // CELL), 0), max(int(bottom // CELL) + 1, 0))
        columns = slice(max(int((x - 1.2 * radius) // CELL), 0), max(int((x + 1.2 * radius) // CELL) + 1, 0))
        weights[latent[frame], rows, columns] = SOLID_WEIGHT
    return weights


def statistics(file: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (48, 1, 1, 1), in a file of clips."""
    values = torch.load(file, weights_only=True)["latents"].float().transpose(0, 1).flatten(1)
    std = values.std(dim=1).clamp(min=SMALLEST_DEVIATION * values.std(dim=1).max())
    return values.mean(dim=1).view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


def tokens_of(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids (B, T), padded with 0, and how many of each are real."""
    rows = [ids_of(text) for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([len(row) for row in rows])


@dataclass
class Batch:
    """What one step learns: noisy latents, the velocity they ask for, and how much each cell counts."""

    noisy: Tensor
    velocity: Tensor
    times: Tensor
    weight: Tensor
    sigma: Tensor
    pictured: Tensor


def noised(latents: Tensor, weight: Tensor, generator: torch.Generator, clips: bool) -> Batch:
    """Mix in noise, one stratified draw of sigma for the batch; some clips keep their first frame as it is."""
    count = len(latents)
    share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    sigma = torch.sigmoid(torch.special.ndtri(share) * SPREAD)
    sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    pictured = (torch.rand(count, generator=generator) < PICTURED) & clips
    noise = torch.randn(latents.shape, generator=generator)
    s = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - s) * latents + s * noise
    noisy[pictured, :, :1] = latents[pictured, :, :1]
    counted = torch.ones(count, 1, latents.shape[2], 1, 1)
    counted[pictured, :, 0] = 0
    times = torch.stack([sigma.masked_fill(pictured, 0.0), sigma], dim=1) * 1000
    return Batch(noisy, noise - latents, times, weight * counted, sigma, pictured)


def report(batch: Batch, squares: Tensor) -> dict[str, list[float]]:
    """The errors at the solid by how noisy the latents are, of text and of first frames."""
    mark = (batch.weight > 1).float()
    each = (squares.mean(1, keepdim=True) * mark).sum((1, 2, 3, 4)) / mark.sum((1, 2, 3, 4)).clamp(min=1)
    out = {}
    for name, low, high in (("<.7", 0.0, 0.7), ("<.9", 0.7, 0.9), (">.9", 0.9, 1.0)):
        within = (batch.sigma >= low) & (batch.sigma < high)
        for kind, chosen in (("t", ~batch.pictured), ("i", batch.pictured)):
            out[kind + name] = each[within & chosen].tolist()
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of state and log; what is there is gone on with")
    parser.add_argument("--stills", type=Path, required=True, help="folder of latents of stills")
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="folders of latents of clips, one a size")
    parser.add_argument("--still-steps", type=int, default=600, help="steps of stills alone, at the beginning")
    parser.add_argument("--steps", type=int, default=2200, help="steps altogether")
    parser.add_argument("--until", type=int, help="end at this step, to be gone on with later (default: at the last)")
    parser.add_argument("--fall", type=int, default=700, help="steps at the end over which the rates fall to nothing")
    parser.add_argument("--other-sizes", type=float, default=0.15, help="share of clips of the sizes after the first")
    parser.add_argument("--still-batch", type=int, default=64)
    parser.add_argument("--clip-batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full rates")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    mean, std = statistics(min(asked.clips[0].glob("*.pt")))
    Training(asked, mean, std).go()


class Training:
    """The networks, their averages, and what they learn from."""

    def __init__(self, asked: argparse.Namespace, mean: Tensor, std: Tensor) -> None:
        self.asked, self.mean, self.std = asked, mean, std
        self.model, self.encoder = make_transformer(), make_text_encoder()
        start_transformer(self.model)
        start_text_encoder(self.encoder)
        inner = {n for n, p in self.model.named_parameters() if n.startswith("blocks") and p.ndim == 2}
        matrices, others = split(self.model, inner)
        self.averages = torch.nn.ModuleDict({"transformer": make_transformer(), "text_encoder": make_text_encoder()})
        self.averages["transformer"].load_state_dict(self.model.state_dict())
        self.averages["text_encoder"].load_state_dict(self.encoder.state_dict())
        self.trained = torch.nn.ModuleDict({"transformer": self.model, "text_encoder": self.encoder})
        networks = {"trained": self.trained, "averages": self.averages}
        self.run = Run(asked.run, networks, optimisers_of(matrices, [*others, *self.encoder.parameters()]))
        torch.save({"mean": mean, "std": std}, asked.run / "statistics.pt")
        self.stills = Latents(sorted(asked.stills.glob("*.pt")), mean, std)
        self.clips: list[Latents] = []

    def go(self) -> None:
        schedule, figures = Schedule(self.asked.steps, self.asked.fall), dict[str, list[float]]()
        until = min(schedule.steps, self.asked.until or schedule.steps)
        while self.run.step < until:
            self.run.set_rates(schedule.rate(self.run.step) * self.asked.rate, RATES)
            for name, values in self._step().items():
                figures.setdefault(name, []).extend(values)
            self.run.step += 1
            if self.run.step % 25 == 0 or self.run.step == until:
                self.run.log(**{name: round(sum(v) / len(v), 3) for name, v in figures.items() if v})
                figures.clear()
            self.run.save(every=60)
        self.run.save()

    def _drawn(self, rng: np.random.Generator) -> tuple[str, Latents]:
        if self.run.step < self.asked.still_steps:
            return "still", self.stills
        if not self.clips:
            self.clips = [Latents(sorted(folder.glob("*.pt")), self.mean, self.std) for folder in self.asked.clips]
        if rng.random() < STILLS_LATER:
            return "still", self.stills
        other = len(self.clips) > 1 and rng.random() < self.asked.other_sizes
        return "clip", self.clips[rng.integers(1, len(self.clips)) if other else 0]

    def _step(self) -> dict[str, list[float]]:
        rng, generator = draws(self.asked.seed, self.run.step)
        kind, source = self._drawn(rng)
        count = self.asked.clip_batch if kind == "clip" else self.asked.still_batch
        latents, weight, texts = source.draw(rng, count)
        batch = noised(latents, weight, generator, clips=kind == "clip")
        ids, lengths = tokens_of(texts)
        with fast():
            words = embed(self.encoder, ids, lengths)
            padding = min(1.0, self.run.step / PADDING_STEPS)
            velocity = forward(self.model, batch.noisy, batch.times, words, lengths, padding)
        squares = (velocity - batch.velocity).square()
        loss = (squares * batch.weight).sum() / batch.weight.sum() / latents.shape[1]
        self.trained.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.run.optimisers[0].param_groups[0]["params"], 1.0)
        for optimiser in self.run.optimisers:
            optimiser.step()
        self._average()
        self.run.counts[kind] = self.run.counts.get(kind, 0) + len(latents)
        figures = report(batch, squares.detach())
        return {kind: [loss.item()], **{f"{kind} {name}": values for name, values in figures.items()}}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(AVERAGED, (self.run.step + 1) / (self.run.step + 10))
        averages, trained = list(self.averages.parameters()), list(self.trained.parameters())
        torch._foreach_lerp_(averages, trained, 1 - keep)


if __name__ == "__main__":
    main()
