"""Parameters, operations, peaks and constants that the plan counts, against the networks themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ringlight.core.plan import Abilities, JobPlan
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model
from ringlight.families.wan.demo import SIZES_21 as SIZES
from ringlight.families.wan.demo import VAE_21 as VAE
from ringlight.families.wan.networks.resample import Upsampler
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.recipe import spare_bytes
from ringlight.families.wan.work.decoding import DecoderPeak
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.kernels.attention.kernel import load_kernel
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh
from ringlight.planner import memory
from ringlight.planner.deciding import job_plan
from ringlight.planner.hardware import RunSettings
from tests.ours import load_pipeline
from tests.planner.specs import REAL, demo_spec, layout, machine, work
from tests.quick import first_quick

META = torch.device("meta")
CPU = torch.device("cpu")
WAN21_VAE = msgspec.convert(VAE | SIZES["tiny"]["vae"], VaeSpec)
CORE = machine("cpu-core", "loopback", settings=RunSettings(dtype="float32"))


@dataclass(frozen=True)
class Properties:
    """What torch tells of a card, as far as it is asked."""

    total_memory: int


def count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("spec", [REAL, demo_spec("tiny"), demo_spec("small")], ids=lambda spec: spec.name)
def test_parameters_are_those_of_the_networks(spec: ModelSpec) -> None:
    with META:
        transformer, vae = WanTransformer(spec.transformer), WanVae(spec.vae)
    kept = set(WanTransformer.KEPT_IN_FLOAT32)
    in_float32 = [value for name, value in transformer.named_parameters() if kept & set(name.split("."))]
    layers = spec.transformer.layers
    assert (layers.parameters, layers.float32_parameters) == (
        count(list(transformer.parameters())),
        count(in_float32),
    )
    assert spec.vae.decoder.parameters + spec.vae.encoder.parameters == count(list(vae.parameters()))


def test_the_built_in_card_has_the_published_sizes() -> None:
    assert round(REAL.transformer.layers.parameters / 1e9, 4) == 4.9998
    assert round((REAL.vae.decoder.parameters + REAL.vae.encoder.parameters) / 1e6, 1) == 704.7
    assert round(sum(REAL.text_encoder.layers.parts) / 1e9, 2) == 5.68
    assert round(REAL.vae.decoder.history_elements(44, 80, is_split=False) / 1e9, 3) == 1.608
    assert REAL.num_tokens(121, 704, 1280) == 27_280


def held(network: nn.Module) -> int:
    """Parameters of a network, with those that its upsamplers make."""
    made = [sum(map(torch.numel, each._phase_weights())) for each in network.modules() if isinstance(each, Upsampler)]
    return count(list(network.parameters())) + sum(made)


@pytest.mark.parametrize("name", ["Wan2.2-TI2V-5B", "Wan2.1-T2V-14B"])
def test_the_decoders_parts_are_those_of_the_network(name: str) -> None:
    spec = known_model(name).vae
    assert isinstance(spec, VaeSpec)
    with META:
        vae = WanVae(spec)
        before, *others = [held(stage) for stage in vae.decoder.stages]
        others[-1] += held(vae.decoder.norm_out)
        assert spec.decoder.parts == [before + held(vae.post_quant_conv), *others]
    assert sum(spec.decoder.parts) == spec.decoder.parameters + spec.decoder.made_parameters


def test_history_is_on_the_device_or_on_the_host() -> None:
    """5.99 GiB in float32, of which the last level has 3.44 and what stands before the levels 0.11."""
    decoder = REAL.vae.decoder
    everything = decoder.history_elements(44, 80, False)
    on_host = [decoder.host_history_elements(44, 80, False, levels) for levels in range(5)]
    assert [round(elements * 4 / 2**30, 2) for elements in on_host] == [0, 3.44, 4.94, 5.69, 5.88]
    for levels, elements in enumerate(on_host):
        assert decoder.history_elements(44, 80, False, levels) + elements == everything
    halves = [decoder.host_history_elements(22, 80, True, levels) for levels in range(5)]
    assert all(elements / 2 <= half <= 0.52 * elements for elements, half in zip(on_host, halves, strict=True))


def test_history_travels_with_every_run_of_a_level() -> None:
    """The fewer frames at a time, the more often it comes. Out go new frames alone."""
    decoder = REAL.vae.decoder
    last = decoder.host_history_elements(44, 80, False, 1)
    assert decoder.history_traffic(44, 80, False, 1, 1, 1) == (4 * last, 2 * last)
    assert decoder.history_traffic(44, 80, False, 1, 2, 1) == (2 * last, 2 * last)
    assert decoder.history_traffic(44, 80, False, 1, 4, 1) == (last, last)
    assert decoder.history_traffic(44, 80, False, 1, 0, 1) == (2 * last, 2 * last), "two frames at a time"
    assert decoder.history_traffic(44, 80, False, 1, 0, 2) == (2 * last, 2 * last), "four of eight"
    assert decoder.history_traffic(44, 80, False, 0, 1, 1) == (0, 0)
    into, out = decoder.history_traffic(44, 80, False, 4, 1, 1)
    assert (round(into * 4 / 2**30, 1), round(out * 4 / 2**30, 1)) == (21.5, 10.7)


@pytest.mark.slow
@pytest.mark.parametrize("name", first_quick(["Wan2.2-TI2V-5B", "Wan2.1-T2V-14B"]))
def test_the_vaes_layers_and_operations_are_those_that_run(name: str) -> None:
    spec = known_model(name).vae
    assert isinstance(spec, VaeSpec)
    with torch.inference_mode(), META:
        vae = WanVae(spec)
        assert count(list(vae.parameters())) == spec.decoder.parameters + spec.encoder.parameters
        frame = torch.empty(spec.z_dim, 1, 12, 20)
        stream = vae.start_decoding(Bands.alone(12), 20, 2, META)
        for first in (True, False):
            with FlopCounterMode(display=False) as counter:
                vae.decode_next(frame, stream, first)
            formula = spec.decoder.flops(12, 12, 20, first, winograd=False)
            assert formula == pytest.approx(counter.get_total_flops(), rel=0.01)  # the count has a frame of border
        scale = spec.scale_factor_spatial
        with FlopCounterMode(display=False) as counter:
            vae.encode(torch.empty(1, 12 * scale, 20 * scale, 3))
        assert spec.encoder.flops(12, 12, 20) == pytest.approx(counter.get_total_flops(), rel=0.001)


def peak_bytes(run: Callable[[], object], trace: Path) -> int:
    """The most that was allocated at once above what there was, as PyTorch's own allocator tells it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    profiled.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    before = events[0]["args"]["Total Allocated"] - events[0]["args"]["Bytes"]
    most: int = max(event["args"]["Total Allocated"] for event in events) - before
    return most


@pytest.mark.slow
@pytest.mark.parametrize("portion", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", first_quick([demo_spec("tiny").vae, WAN21_VAE]), ids=["wan22", "wan21"])
def test_the_decoders_peak_is_what_it_allocates(portion: int, spec: VaeSpec, tmp_path: Path) -> None:
    with META:
        vae = WanVae(spec)
    materialise(vae, CPU, torch.float32)
    fill_random(vae, 0)
    vae.optimise_layout()
    latents = torch.randn(spec.z_dim, 1 + portion, 10, 14)

    def decode() -> None:
        stream = vae.start_decoding(Bands.alone(10), 14, 9, CPU)
        vae.decode_next(latents[:, :1], stream, first=True)
        vae.decode_next(latents[:, 1:], stream, first=False)

    decode()  # makes the weights that it keeps
    history = spec.decoder.history_elements(10, 14, is_split=False)
    formula = 4 * (
        history + DecoderPeak(spec.decoder, 10, 14, is_split=False, winograd=True).of(portion, has_history=True)
    )
    assert formula == pytest.approx(peak_bytes(decode, tmp_path / "trace.json"), rel=0.05)


@pytest.mark.slow
def test_the_peak_of_a_forward_is_what_it_allocates(tmp_path: Path) -> None:
    spec = demo_spec("small")
    with META:
        transformer = WanTransformer(spec.transformer)
    materialise(transformer, CPU, torch.float32, WanTransformer.KEPT_IN_FLOAT32)
    fill_random(transformer, 0)
    transformer.optimise_layout()
    asked = work(spec, width=512, height=320, num_frames=25)
    latents = torch.randn(1, *asked.latent_shape)
    keys = transformer.text_keys(torch.randn(20, spec.transformer.text_dim), 512)

    def forward() -> None:
        transformer(latents, torch.tensor([5.0]), keys, load_kernel("flash_cpu"), ParallelMesh.alone())

    forward()
    formula = memory.denoising_bytes(asked, layout("u1r1"), CORE, JobPlan())
    beside = 4 * memory.LATENTS_HELD * latents.numel()
    beside += 2 * memory.TEXT_TOKENS * 2 * spec.transformer.inner_dim * spec.transformer.num_layers * 4
    assert formula - beside == pytest.approx(peak_bytes(forward, tmp_path / "trace.json"), rel=0.1)


def test_frames_are_decoded_alike_before_and_after_workers_are_met(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all memory of a card and the weights that are loaded, which plan and worker reckon to the byte."""
    pipeline, settings = load_pipeline(tiny, torch.bfloat16), RunSettings(vae_dtype="float32")
    with META:  # as on a card: a CPU packs some
        transformer, vae = WanTransformer(pipeline.spec.transformer), WanVae(pipeline.spec.vae)
    materialise(transformer, META, torch.bfloat16, WanTransformer.KEPT_IN_FLOAT32)
    networks = (transformer, vae, pipeline.prompts.encoder)
    asked = work(pipeline.spec, width=1280, height=704)
    chosen = []
    for gib in (1, 4, 16, 64):
        there = machine("h100-sxm", "nvlink4", settings=settings)
        card = msgspec.structs.replace(there.card, memory_bytes=gib * 2**30)
        there = msgspec.structs.replace(there, hardware=msgspec.structs.replace(there.hardware, card=card))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: Properties(card.memory_bytes))
        found = Abilities(spare_bytes=spare_bytes(torch.device("cuda"), networks))
        assert found.spare_bytes == memory.spare_bytes(pipeline.spec, layout("u1r1"), there)
        met = msgspec.structs.replace(there, abilities=found)
        chosen.append(job_plan(asked, layout("u1r1"), met).decode_chunk)
        assert chosen[-1] == job_plan(asked, layout("u1r1"), there).decode_chunk
    assert chosen == sorted(chosen)
    assert len(set(chosen)) > 2
    assert spare_bytes(CPU, networks) == 0
