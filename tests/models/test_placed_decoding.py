"""The decoder with its history on the host, and with few frames at a time: no bit of a frame is another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest
import torch
from torch import Tensor

from ringlight.core.plan import Placement
from ringlight.core.portions import MAX_ELEMENTS
from ringlight.families.wan.demo import SIZES_21 as SIZES
from ringlight.families.wan.demo import VAE_21 as VAE
from ringlight.families.wan.networks.causal import CausalConv
from ringlight.families.wan.networks.hosted import HostedStream, Kept
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.halo import Bands
from ringlight.residency.exchange import Arrival, Exchange
from tests.ours import CPU
from tests.planner.specs import demo_spec
from tests.quick import first_quick
from tests.residency.exchanges import AtOnce, Late

WAN22 = demo_spec("tiny").vae
WAN21 = msgspec.convert(VAE | SIZES["tiny"]["vae"], VaeSpec)
PORTIONS = [[1, 1, 2], [1, 3], [1, 1, 1, 1]]
ROWS, COLUMNS = 2, 3
ALL_ON_HOST = Placement(host_history=4, frames_at_once=1)


def vae_of(spec: object, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> WanVae:
    assert isinstance(spec, VaeSpec)
    with torch.device("meta"):
        vae = WanVae(spec)
    materialise(vae, device, dtype)
    fill_random(vae, 0)
    vae.optimise_layout()
    return vae


@pytest.fixture(scope="module", params=first_quick([WAN22, WAN21]), ids=["wan22", "wan21"])
def vae(request: pytest.FixtureRequest) -> WanVae:
    """A VAE of either kind, with random weights."""
    return vae_of(request.param)


def decode(
    vae: WanVae,
    portions: list[int],
    placement: Placement | None = None,
    exchange: Exchange | None = None,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """Frames of a video that is decoded in such portions."""
    num_latents = sum(portions)
    shape = vae.spec.z_dim, num_latents, ROWS, COLUMNS
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(num_latents))
    vae.exchange = exchange
    bands = Bands.alone(ROWS)
    with closing(vae.start_decoding(bands, COLUMNS, num_latents, CPU, placement, max_elements)) as stream:
        return torch.cat([vae.decode_next(part, stream, i == 0) for i, part in enumerate(latents.split(portions, 1))])


@pytest.mark.slow
@pytest.mark.parametrize("portions", first_quick(PORTIONS), ids=str)
def test_frames_at_once_change_no_bit(vae: WanVae, portions: list[int]) -> None:
    """Nor do latent frames. A single frame is two where frames are convolved in pairs, and three are four."""
    usual = decode(vae, [1, 1, 1, 1])
    for frames in (0, 1, 2, 3):
        assert torch.equal(decode(vae, portions, Placement(frames_at_once=frames)), usual)


@pytest.mark.parametrize("portions", first_quick(PORTIONS), ids=str)
@pytest.mark.parametrize("kind", first_quick([Late, AtOnce]))
def test_history_on_the_host_changes_no_bit(vae: WanVae, kind: type[AtOnce], portions: list[int]) -> None:
    """However early or late it comes and goes. It is as much as plans say."""
    usual = decode(vae, portions)
    for levels, frames in ((1, 0), (2, 1), (4, 1)):
        placement, exchange = Placement(host_history=levels, frames_at_once=frames), kind()
        assert torch.equal(decode(vae, portions, placement, exchange), usual)
        assert exchange.rooms == [4 * vae.spec.decoder.host_history_elements(ROWS, COLUMNS, False, levels)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AtOnce, Late])
def test_histories_that_stand_apart_on_the_host(kind: type[AtOnce]) -> None:
    """Where no tensor may be as long as a window. In bfloat16, of which frames do not come in pairs."""
    vae = vae_of(WAN22, torch.bfloat16)
    on_device, on_host = (
        decode(vae, [1, 1, 1], placement, kind(), max_elements=2**12) for placement in (None, ALL_ON_HOST)
    )
    assert torch.equal(on_host, on_device)


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "frames", "portion"), [(4, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 1)])
def test_history_travels_as_planned(levels: int, frames: int, portion: int) -> None:
    """For a later portion, when all history is whole. In bfloat16, of which frames do not come in pairs."""
    vae, exchange = vae_of(WAN22, torch.bfloat16), AtOnce()
    vae.exchange, seen = exchange, [(0, 0)]
    placement = Placement(host_history=levels, frames_at_once=frames)
    stream = vae.start_decoding(Bands.alone(ROWS), COLUMNS, 9, CPU, placement)
    for num_latents in (1, portion, portion, portion):
        vae.decode_next(torch.zeros(vae.spec.z_dim, num_latents, ROWS, COLUMNS), stream, len(seen) == 1)
        seen.append((exchange.brought, exchange.taken))
    travelled = tuple(after - before for before, after in zip(seen[-2], seen[-1], strict=True))
    assert travelled == vae.spec.decoder.history_traffic(ROWS, COLUMNS, False, levels, frames, portion)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_card_as_well() -> None:
    """Frames so large that a copy takes its time: who does not wait for it has other frames."""
    device, rows, columns = torch.device("cuda"), 22, 40
    vae = vae_of(WAN22, device=device)
    latents = torch.randn(WAN22.z_dim, 5, rows, columns, device=device)

    def decoded(placement: Placement) -> Tensor:
        with closing(vae.start_decoding(Bands.alone(rows), columns, 5, device, placement)) as stream:
            return torch.cat([vae.decode_next(part, stream, i == 0) for i, part in enumerate(latents.split(1, 1))])

    with torch.inference_mode():
        usual = decoded(Placement(frames_at_once=1))
        for _ in range(3):
            assert torch.equal(decoded(ALL_ON_HOST), usual)


def test_of_a_cpu_the_host_is_the_same_memory(vae: WanVae) -> None:
    with pytest.raises(AssertionError, match="the host is the same memory"):
        decode(vae, [1, 1], ALL_ON_HOST)


def test_one_frame_keeps_nothing(vae: WanVae) -> None:
    exchange = AtOnce()
    decode(vae, [1], ALL_ON_HOST, exchange)
    assert not exchange.rooms


def test_convolutions_run_in_the_order_that_was_said(vae: WanVae) -> None:
    stream = vae.start_decoding(Bands.alone(ROWS), COLUMNS, 2, CPU, ALL_ON_HOST)
    conv_in, conv_out = vae.decoder.conv_in, vae.decoder.conv_out
    stream.begin([(conv_in, 1), (conv_out, 1)])
    with pytest.raises(AssertionError, match="in the order that was said"):
        stream.window(conv_out, torch.empty(1, *stream._frame(conv_out)), 1)


def never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: Late, arrival: Arrival) -> None: ...

    monkeypatch.setattr(Late, "wait", wait)


def take_what_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    window, written = HostedStream.window, HostedStream.written

    def early(self: HostedStream, conv: CausalConv, like: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        whole, new = window(self, conv, like, num_frames)
        written(self, conv, whole)
        return whole, new

    def nothing(self: HostedStream, conv: CausalConv, whole: Tensor) -> None: ...

    monkeypatch.setattr(HostedStream, "window", early)
    monkeypatch.setattr(HostedStream, "written", nothing)


def bring_into_the_window_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    place_next = HostedStream._place_next

    def same_end(self: HostedStream) -> None:
        self._num_placed = 0
        place_next(self)

    monkeypatch.setattr(HostedStream, "_place_next", same_end)


def forget_which_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(self: Kept, num_new: int) -> list[Tensor]:
        self.seen = min(2, self.seen + num_new)
        return self.frames[2 - num_new :]

    monkeypatch.setattr(Kept, "follow", follow)


@pytest.mark.parametrize(
    ("kind", "plant"),
    first_quick(
        [
            (Late, never_wait),
            (AtOnce, take_what_is_not_written),
            (AtOnce, bring_into_the_window_in_use),
            (Late, bring_into_the_window_in_use),
            (AtOnce, forget_which_is_older),
        ]
    ),
)
def test_planted_bugs_would_show(
    kind: type[AtOnce], plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = vae_of(WAN22)
    right = decode(vae, [1, 1, 1, 1], ALL_ON_HOST, kind())
    plant(monkeypatch)
    assert not torch.equal(decode(vae, [1, 1, 1, 1], ALL_ON_HOST, kind()), right)
