"""The text encoder over real ranks against one rank: the same bits on every rank, and no more traffic than needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.layout import ParallelLayout
from ringlight.core.request import VideoRequest
from ringlight.core.warning import RequestWarning, prompt_truncated
from ringlight.families.traffic import text_bytes
from ringlight.families.wan.networks.text_encoder import TextEncoder
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.stages.text_encoding import PromptCache, encode_text
from tests.models.text_encoders import MAX_TOKENS, loaded
from tests.ours import Silent
from tests.parallel.ranks import on_ranks

LAYOUTS = [
    ParallelLayout(ring=2),
    ParallelLayout(cfg=2),
    ParallelLayout(ring=3),
    ParallelLayout(cfg=2, ring=2),
    ParallelLayout(ulysses=5),  # a rank for the tiny encoder's token table, two for its layers and two for nothing
    ParallelLayout(ring=9),  # more than the small encoder's table and layers
]
QUICK_LAYOUTS = [ParallelLayout(ring=2), ParallelLayout(ring=3)]
DTYPES = [torch.float32, torch.bfloat16]
PROMPTS = ["", "a cat", "a wooden boat drifts across a calm lake " * 80, "一只猫在雨中奔跑，电影感", "café 🐈", "a cat"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    DEMO.write(folder, "small")
    return folder


def encoded(checkpoint: Path, dtype: torch.dtype, change: Callable[[TextEncoder], None]) -> Callable[..., Tensor]:
    """Work for a rank: the embeddings of all prompts, one after another; `change` may plant a bug in the encoder."""

    def work(mesh: ParallelMesh) -> Tensor:
        encoder = loaded(checkpoint, mesh.world, dtype)
        change(encoder)
        return torch.cat(encoder.encode(PROMPTS))

    return work


def nothing(encoder: TextEncoder) -> None:
    """No bug."""


def sent_bytes(link: Link) -> int:
    """Bytes this rank sent, which were all for prompts."""
    report = link.report()
    assert report.keys() <= {"text"}
    return report["text"].sent_bytes if report else 0


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=() if layout in QUICK_LAYOUTS else pytest.mark.slow) for layout in LAYOUTS],
    ids=lambda layout: layout.name,
)
@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_every_rank_has_the_bits_of_one_rank(request: pytest.FixtureRequest, size: str, layout: ParallelLayout) -> None:
    checkpoint: Path = request.getfixturevalue(size)

    def work(mesh: ParallelMesh) -> Tensor:
        """In each dtype; as float32, which holds every bfloat16."""
        return torch.stack([encoded(checkpoint, dtype, nothing)(mesh).float() for dtype in DTYPES])

    alone = work(ParallelMesh.alone())
    assert alone.shape[1] > MAX_TOKENS
    assert alone.isfinite().all()
    assert not torch.equal(*alone)
    for result in on_ranks(layout, work):
        assert torch.equal(result, alone)


def backwards(encoder: TextEncoder) -> None:
    """A planted bug: each rank runs its layers in the wrong order."""
    encoder.network.encoder.block = nn.ModuleDict(reversed(list(encoder.network.encoder.block.items())))


def normed(encoder: TextEncoder) -> None:
    """A planted bug: hidden states are normed on every rank, not at the end alone."""
    encoder.network.encoder.final_layer_norm = nn.RMSNorm(256, eps=1e-6)


def late(encoder: TextEncoder) -> None:
    """A planted bug: the second rank takes the hidden states of the prompt before."""
    receive, before = encoder._receive, torch.zeros(1, MAX_TOKENS, 256)

    def receive_late(length: int) -> Tensor:
        hidden = receive(length)
        kept = hidden.clone()
        hidden.copy_(before[:, :length])
        before[:, :length] = kept
        return hidden

    encoder._receive = receive_late  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("bug", [backwards, normed, late])
def test_planted_bugs_show(small: Path, bug: Callable[[TextEncoder], None]) -> None:
    alone = encoded(small, torch.float32, nothing)(ParallelMesh.alone())
    for result in on_ranks(ParallelLayout(ring=2), encoded(small, torch.float32, bug)):
        assert result.shape == alone.shape
        assert (result - alone).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("layout", "holders"),
    [(ParallelLayout(ring=2), 2), pytest.param(ParallelLayout(ring=5), 3, marks=pytest.mark.slow)],
)
def test_hidden_states_go_to_the_next_and_embeddings_to_all(
    tiny: Path, layout: ParallelLayout, holders: int, dtype: torch.dtype
) -> None:
    """A holder sends every prompt's hidden states once; the last one its embeddings to each other rank."""

    def work(mesh: ParallelMesh) -> Tensor:
        encoder = loaded(tiny, mesh.world, dtype)
        num_bytes = sum(embedding.nbytes for embedding in encoder.encode(PROMPTS))
        return torch.tensor([num_bytes, sent_bytes(mesh.world.link)])

    for rank, result in enumerate(on_ranks(layout, work)):
        num_bytes, sent = result.tolist()
        assert sent == text_bytes(holders, layout.num_ranks, rank, num_bytes, itemsize=1)
        assert num_bytes > 64 * MAX_TOKENS * dtype.itemsize


A, B, C = ["a cat", ""], ["a dog runs along the beach", ""], ["a cat", "一只猫"]


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [0, 4096, 2**20])
@pytest.mark.parametrize(
    "layout",
    [ParallelLayout(ring=2), pytest.param(ParallelLayout(ring=5), marks=pytest.mark.slow)],
    ids=lambda layout: layout.name,
)
def test_caches_remember_and_forget_alike(tiny: Path, layout: ParallelLayout, max_bytes: int) -> None:
    def work(mesh: ParallelMesh) -> Tensor:
        """After each request: its embeddings, and then all that the cache holds, least recently used first."""
        prompts = PromptCache(loaded(tiny, mesh.world), max_bytes)
        rows = []
        for texts in [A, A, B, C, B, A, ["", ""]]:
            rows += prompts.encode(texts)
            rows += prompts._embeddings.values()
            assert prompts.num_bytes <= max_bytes or len(prompts._embeddings) == 1
        return torch.cat(rows)

    alone = work(ParallelMesh.alone())
    for result in on_ranks(layout, work):
        assert torch.equal(result, alone)


def test_a_cached_prompt_costs_no_traffic(tiny: Path) -> None:
    request = VideoRequest(
        prompt="a cat",
        negative_prompt="blurry",
        width=32,
        height=64,
        num_frames=5,
        fps=24,
        num_inference_steps=2,
        guidance_scale=5.0,
        flow_shift=5.0,
        seed=1,
    )

    def work(mesh: ParallelMesh) -> Tensor:
        prompts = PromptCache(loaded(tiny, mesh.world), 2**20)
        first = encode_text(request, prompts, Silent())
        assert sent_bytes(mesh.world.link) > 0
        mesh.world.link.reset()
        again = encode_text(request, prompts, Silent())
        assert len(first) == len(again) == 2
        assert all(map(torch.equal, first, again))
        assert mesh.world.link.report() == {}
        return torch.cat(again)

    alone = PromptCache(loaded(tiny), 2**20).encode(["a cat", "blurry"])
    for result in on_ranks(ParallelLayout(cfg=2), work):
        assert torch.equal(result, torch.cat(alone))


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[RequestWarning] = []

    def warned(self, warning: RequestWarning) -> None:
        self.warnings.append(warning)


def test_a_prompt_that_is_longer_than_is_read_is_told(tiny: Path) -> None:
    """Also the second time, when its embeddings are known; and none that just fits."""
    encoder = loaded(tiny)
    prompts, events = PromptCache(encoder, 2**20), Listening()
    long = "a wooden boat " * 80
    number = encoder.count_tokens(long)
    assert number > MAX_TOKENS
    request = VideoRequest(
        prompt=long,
        negative_prompt=long,
        width=32,
        height=64,
        num_frames=5,
        fps=24,
        num_inference_steps=2,
        guidance_scale=5.0,
        flow_shift=5.0,
        seed=1,
    )
    expected = [prompt_truncated(field, number, MAX_TOKENS) for field in ("prompt", "negative_prompt")]
    for times in (1, 2):
        encode_text(request, prompts, events)
        assert events.warnings == expected * times
    events.warnings.clear()
    encode_text(replace(request, guidance_scale=1.0), prompts, events)  # its negative prompt is not read
    assert events.warnings == expected[:1]
    events.warnings.clear()
    fits = long
    while encoder.count_tokens(fits) > MAX_TOKENS:
        fits = fits[:-1]
    assert encoder.count_tokens(fits) == MAX_TOKENS
    encode_text(replace(request, prompt=fits, guidance_scale=1.0), prompts, events)
    assert events.warnings == []


def test_tokens_that_the_table_has_not_are_refused_by_all_before_anything_travels(tiny: Path) -> None:
    def work(mesh: ParallelMesh) -> Tensor:
        encoder = loaded(tiny, mesh.world)
        encoder.tokenizer.add_tokens(["zyzzyva"])
        with pytest.raises(InvalidCheckpoint, match="token 443 of 'a zyzzyva'; the text encoder has 0 to 442"):
            encoder.encode(["a cat", "a zyzzyva"])
        assert mesh.world.link.report() == {}
        return encoder.encode(["a cat"])[0]  # and nobody waits for anybody

    (alone,) = loaded(tiny).encode(["a cat"])
    for result in on_ranks(ParallelLayout(ring=3), work):
        assert torch.equal(result, alone)
