"""A training that can be ended and gone on with: its state, its rates, and its log of what it cost."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.muon import Muon

STATE, LOG = "state.pt", "log.jsonl"


@dataclass(frozen=True)
class Schedule:
    """How the rates go, as shares of the full ones: up over `warmup` steps, down to zero over the last `fall`."""

    steps: int
    fall: int
    warmup: int = 30

    def rate(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(self.fall, 1))


@dataclass
class Cost:
    """What was spent so far, over all starts of the run: seconds of CPU and of the wall's clock."""

    cpu: float = 0.0
    wall: float = 0.0
    _begun: tuple[float, float] = field(default_factory=lambda: (time.process_time(), time.monotonic()))

    def now(self) -> tuple[float, float]:
        return self.cpu + time.process_time() - self._begun[0], self.wall + time.monotonic() - self._begun[1]


class Run:
    """The state of a training in a folder: networks, optimisers, the step, and the cost.

    Every step is drawn from (seed, step) alone, so a run that was ended goes on as if it had not been.
    """

    def __init__(self, folder: Path, networks: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer]) -> None:
        self.folder, self.networks, self.optimisers = folder, networks, optimisers
        self.step, self.cost, self.counts = 0, Cost(), dict[str, int]()
        self._saved = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.folder / STATE, weights_only=True)
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        self.step, self.counts = state["step"], state["counts"]
        self.cost = Cost(*state["cost"])
        print(f"goes on from step {self.step}", flush=True)

    def save(self, every: float = 0.0) -> None:
        """Save all; with `every` only if the last save is so many seconds ago."""
        if time.monotonic() - self._saved < every:
            return
        state = {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "counts": self.counts,
            "cost": self.cost.now(),
        }
        new = self.folder / f"{STATE}.new"
        torch.save(state, new)
        new.replace(self.folder / STATE)
        self._saved = time.monotonic()

    def set_rates(self, rate: float, tops: list[float]) -> None:
        for optimiser, top in zip(self.optimisers, tops, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = top * rate

    def log(self, **figures: Any) -> None:
        cpu, wall = self.cost.now()
        line = {"step": self.step, "cpu_s": round(cpu), "wall_s": round(wall), **self.counts, **figures}
        with (self.folder / LOG).open("a") as file:
            print(json.dumps(line), file=file)
        print(" ".join(f"{name} {value}" for name, value in line.items()), flush=True)


def fast() -> torch.autocast:
    """bfloat16 where the CPU multiplies in it (AVX-512 and later); elsewhere float32 is several times faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def draws(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The random numbers of one step."""
    rng = np.random.default_rng((seed, step))
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


def optimisers_of(matrices: list[nn.Parameter], others: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for what is a matrix inside a network, AdamW for the rest; their rates are set at each step."""
    return [torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0), Muon(matrices, lr=0.0)]


def split(network: nn.Module, matrices: set[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters named, and the others."""
    named = list(network.named_parameters())
    return [p for name, p in named if name in matrices], [p for name, p in named if name not in matrices]
