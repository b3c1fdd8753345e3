"""A whole generation at full size on a fake device, whose weights lie on the host and come while they are needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import msgspec
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.families.model import ModelSpec
from ringlight.families.wan.adapted import MERGED, SMALL
from ringlight.families.wan.loaded import WanNetworks
from ringlight.families.wan.work.shapes import weight_shapes
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.kernels.adapter import Adapter, LowRank
from ringlight.kernels.attention.kernel import load_kernel
from ringlight.kernels.widening import HELD
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.turns import in_turns
from ringlight.pipelines.condition import Beside, Condition, FirstFrame
from ringlight.residency.part import WeightPart
from tests.fake_cuda.networks import DEVICE, Size
from tests.fake_cuda.rank import mesh_of
from tests.fake_cuda.watch import Seen, Watch
from tests.planner.specs import REAL
from tests.residency.exchanges import AtOnce

PROMPT = "a " * 77


class FakeShelf:
    """A shelf of bytes that are nowhere."""

    num_bytes = missing_bytes = pinned_bytes = 0

    def __init__(self, parts: Sequence[WeightPart]) -> None:
        self._flat = {part.name: torch.empty(part.num_bytes, dtype=torch.uint8) for part in parts}

    def holds(self, part: WeightPart) -> bool:
        return True

    def is_filled(self, parts: Sequence[WeightPart]) -> bool:
        return True

    def pin(self, device: torch.device, most_bytes: int) -> None: ...

    def flat(self, part: WeightPart) -> Tensor:
        return self._flat[part.name]

    def bind(self, parts: Iterable[WeightPart]) -> None:
        for part in parts:
            part.bind(self.flat(part))

    def fill_once(self, parts: Sequence[WeightPart], fill: Callable[[], None], wait: bool = True) -> bool:
        return True


class FakeLane:
    """Copies of what is nowhere to a device that computes nothing, made at once."""

    def room(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE)

    def now(self) -> None: ...

    def bring(self, there: Tensor, here: Tensor, after: None) -> int:
        there.copy_(here)
        return 0

    def wait(self, brought: int) -> SimpleNamespace:
        return SimpleNamespace(seconds=0.0)

    def settle(self) -> None: ...


def lora_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Of all matrices of blocks, by the checkpoint's names."""
    assert isinstance(spec.transformer, TransformerSpec)
    shapes = weight_shapes(spec.transformer)
    return {
        name: shape
        for name, shape in shapes.items()
        if name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2
    }


@dataclass(frozen=True)
class Generation:
    """Two prompts, a first frame, a step with guidance of each expert, a first frame decoded and a portion more; on
    one rank. With a `lora_rank` all matrices of blocks have a LoRA of that, which is merged, or over weights in eight
    bits comes on the fly."""

    size: Size
    plan: JobPlan
    layout: str = "u1r1"
    rank: int = 0
    spec: ModelSpec = REAL
    lora_rank: int = 0

    def run(self) -> dict[str, Seen]:
        """What each stage holds at its most, and sees."""
        return self._seen(self._encode, self._denoise, self._decode)

    def denoised(self) -> Seen:
        """The same of that stage alone."""
        return self._seen(self._denoise)["denoise"]

    def _seen(self, *stages: Callable[[WanNetworks, ParallelMesh], None]) -> dict[str, Seen]:
        mesh = mesh_of(ParallelLayout.parse(self.layout), self.rank)
        networks = self._networks(mesh)
        seen = {}
        for stage in stages:
            with Watch() as watch:
                stage(networks, mesh)
            seen[stage.__name__.strip("_")] = watch.seen
        return seen

    def _networks(self, mesh: ParallelMesh) -> WanNetworks:
        spec = self.spec
        tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
        tokenizer.pre_tokenizer = Whitespace()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for inner in ("tokenizer", "text_encoder"):
                (folder / inner).mkdir()
            tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
            (folder / "text_encoder" / "config.json").write_bytes(msgspec.json.encode(spec.text_encoder))
            networks = WanNetworks(EngineConfig(model_path=name), Checkpoint(place=folder), spec, DEVICE, mesh.world)
        networks.load_to_host(torch.bfloat16, torch.float32, FakeShelf, FakeLane())  # type: ignore[arg-type]
        for expert in networks.adapted if self.lora_rank else ():
            adapters = {name: self._adapter(*shape) for name, shape in lora_shapes(spec).items()}
            ways = {name: SMALL if expert.places[name].name in HELD else MERGED for name in adapters}
            expert.take_up(adapters, ways)
        return networks

    def _adapter(self, outputs: int, inputs: int) -> Adapter:
        up, down = (
            torch.empty(shape, dtype=torch.bfloat16) for shape in ((outputs, self.lora_rank), (self.lora_rank, inputs))
        )
        return Adapter((LowRank(up, down, 0.5),))

    def _encode(self, networks: WanNetworks, mesh: ParallelMesh) -> None:
        spec = self.spec
        networks.encoder.encode([PROMPT, PROMPT + "a"])
        rows = self.size.latents(spec)[2]
        bands = Bands(rows, mesh.world)
        if bands.size and spec.takes_picture:
            with networks.encoding():
                height = bands.size * spec.vae.scale_factor_spatial
                num_frames = 1 + spec.sees_condition * spec.frame_multiple
                networks.vae.encode(torch.empty(num_frames, height, self.size.width, 3, device=DEVICE), bands)

    def _denoise(self, networks: WanNetworks, mesh: ParallelMesh) -> None:
        spec, plan = self.spec, self.plan
        num_forwards = 2 // mesh.cfg.size
        text = torch.empty(77, spec.text_encoder.d_model, device=DEVICE, dtype=torch.bfloat16)
        latents = torch.empty(1, *self.size.latents(spec), device=DEVICE)
        condition = self._condition(latents)

        @contextmanager
        def at_work(number: int) -> Iterator[Callable[[Tensor, Tensor], None]]:
            network = networks.experts[number]
            with networks.making_text_keys(number):
                keys = [network.text_keys(text, spec.max_text_tokens) for _ in range(num_forwards)]

            def predict(seen: Tensor, times: Tensor) -> None:
                steps = [network.steps(seen, times, each, load_kernel("cudnn"), mesh, plan.num_slices) for each in keys]
                for together in [steps] if plan.take_turns else [[each] for each in steps]:
                    in_turns(*together)

            with networks.denoising(plan.placement, num_forwards if plan.take_turns else 1, number):
                yield predict

        time = torch.empty(1, device=DEVICE)[0]
        for number in range(spec.num_experts):
            with at_work(number) as predict:
                predict(*condition.seen(latents, time))

    def _condition(self, latents: Tensor) -> Condition:
        """What a model is told of a picture."""
        if self.spec.sees_condition:
            channels = self.spec.transformer.in_channels - latents.shape[1]
            return Beside(latents.new_empty(1, channels, *latents.shape[2:]))
        return FirstFrame(latents.new_empty(1, latents.shape[1], 1, *latents.shape[3:]))

    def _decode(self, networks: WanNetworks, mesh: ParallelMesh) -> None:
        spec, plan = self.spec, self.plan
        z, num_latents, rows, columns = self.size.latents(spec)
        bands = Bands(rows, mesh.world)
        latents = torch.empty(z, num_latents, bands.size, columns, device=DEVICE)
        with networks.decoding(plan.placement):
            networks.vae.exchange = AtOnce()
            stream = networks.vae.start_decoding(bands, columns, num_latents, DEVICE, plan.placement)
            networks.vae.decode_next(latents[:, :1], stream, first=True)
            networks.vae.decode_next(latents[:, 1 : 1 + plan.decode_chunk], stream, first=False)
