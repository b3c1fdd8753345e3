"""Places: where each part of a model and of its work lies in a plan, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.portions import split_runs
from ringlight.families.work import Work
from ringlight.planner.adapting import adapter_bytes, copied_bytes, hosted_adapter_bytes
from ringlight.planner.host_room import in_files
from ringlight.planner.machine import Machine
from ringlight.planner.memory import (
    SLOTS,
    decoder_weights,
    decoding_bytes,
    denoising_bytes,
    host_history_bytes,
    image_encoding_bytes,
    stages_before,
    text_keys_bytes,
)

Where = Literal["device", "host", "files"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Place of a part on the rank that has most: where it lies, how many bytes of it, and why there.

    `network` is whose weights they are, by its folder's name, where they may lie on the host.
    """

    part: str
    place: Where
    num_bytes: int
    why: str
    network: str = ""


def places(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> list[Place]:
    """All parts in the order in which stages need them, without those of no bytes."""
    if plan.placement is None:
        rows = [*_resident(work, layout, machine), *_work(work, layout, machine, plan)]
    else:
        rows = [
            *_text(work, layout, machine),
            *_transformer(work, machine, plan.placement),
            *_vae(work, layout, machine, plan.placement),
            *_work(work, layout, machine, plan),
        ]
    left = in_files(work.spec, machine) if plan.placement else []
    return [_in_files(row) if row.network in left and row.place == "host" else row for row in rows if row.num_bytes]


def _resident(work: Work, layout: ParallelLayout, machine: Machine) -> Iterator[Place]:
    spec, settings = work.spec, machine.settings
    why = "all fits at once"
    parts = spec.text_encoder.layers.bytes_of_parts(settings.itemsize)
    own = max(
        (sum(parts[part] for part in run if part), parts[0] if 0 in run else 0)
        for run in split_runs(spec.text_encoder.layers.parts, layout.num_ranks)
    )
    yield _on_device("text encoder, layers", own[0], why)
    yield _on_device("token table", own[1], why)
    experts = "two transformers" if spec.has_experts else "transformer"
    yield _on_device(experts, spec.num_experts * spec.transformer.layers.bytes(settings.itemsize), why)
    yield _on_device("encoder of pictures", spec.vae.encoder.parameters * settings.vae_itemsize, why)
    if spec.image_encoder is not None:
        yield _on_device("image encoder", spec.image_encoder.parameters * settings.itemsize, why)
    yield _on_device("decoder", decoder_weights(spec, machine, Placement()), why)


def _text(work: Work, layout: ParallelLayout, machine: Machine) -> Iterator[Place]:
    parts = work.spec.text_encoder.layers.bytes_of_parts(machine.settings.itemsize)
    yield _on_host("token table", parts[0], "a prompt's few rows are looked up there", "text_encoder")
    way = "used in place" if machine.card.is_cpu else "one after another, once for a new prompt"
    yield _on_host("text encoder, layers", sum(parts[1:]), way, "text_encoder")
    slots = stages_before(work, layout, machine)["TextEncoding"].weights_bytes
    yield _on_device("slots of the text encoder", slots, "while it encodes")


def _transformer(work: Work, machine: Machine, placement: Placement) -> Iterator[Place]:
    layers, itemsize, is_cpu = work.spec.transformer.layers, machine.settings.itemsize, machine.card.is_cpu
    block, streamed = layers.block.forward_bytes(itemsize), placement.streamed_blocks
    keys = layers.num_blocks * layers.block.text_bytes(itemsize)
    yield _on_host("blocks' keys and values of texts", keys, "needed once, before the first step", "transformer")
    if work.spec.has_experts:
        steps = " and ".join(f"{calls}" for calls in work.calls_by_expert)
        why = f"each comes for its own steps ({steps} of them); what follows is of the one at work"
        yield _on_host("the other expert", layers.bytes(itemsize), why, "transformer_2")
    yield _on_device("transformer, outside its blocks", layers.outside_bytes(itemsize), "while it denoises")
    kept = layers.num_blocks - streamed
    yield _on_device(f"{kept} blocks", kept * block, "what there is room for" if streamed else "all of them fit")
    way = "used in place" if is_cpu else "come for every pass, while others compute"
    yield _on_host(f"{streamed} blocks", streamed * block, way, "transformer")
    slots = 0 if is_cpu else min(SLOTS, streamed)
    yield _on_device(f"{slots} slots of blocks", slots * block, "one in use, one begun, one on its way")


def _vae(work: Work, layout: ParallelLayout, machine: Machine, placement: Placement) -> Iterator[Place]:
    spec, itemsize = work.spec, machine.settings.vae_itemsize
    if work.request.image is not None:
        yield _on_device("encoder of pictures", spec.vae.encoder.parameters * itemsize, "while it encodes")
        if spec.image_encoder is not None:
            image = spec.image_encoder.parameters * machine.settings.itemsize
            yield _on_device("image encoder", image, "while it encodes, before the other one")
    weights = decoder_weights(spec, machine, placement)
    if placement.streams_decoder:
        yield _on_host("decoder", sum(spec.vae.decoder.parts) * itemsize, "a level comes when it is next", "vae")
    yield _on_device("decoder", weights, "while it decodes")
    hosted = host_history_bytes(work, layout, machine, placement)
    yield _on_host(
        f"history of earlier frames, last {placement.host_history} levels", hosted, "comes while others compute"
    )


def _work(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> Iterator[Place]:
    """Yield the places of what is computed, beside the weights, in any placement."""
    own, columns, is_split = work.band(layout)
    itemsize, host_levels = machine.settings.vae_itemsize, plan.placement.host_history if plan.placement else 0
    decoder, goes_on = work.spec.vae.decoder, work.latent_shape[1] > 1
    history = goes_on * decoder.history_elements(own, columns, is_split, host_levels) * itemsize
    yield _on_device("history of earlier frames", history, "while it decodes")
    yield _on_device("LoRAs", adapter_bytes(work), "while their expert works")
    if plan.placement is not None:
        yield _on_host("LoRAs, each rank's own", hosted_adapter_bytes(work, machine), "as their files have them")
        copies = copied_bytes(work, machine, plan.placement)
        yield _on_device("copies of blocks", copies, "with LoRAs, one in use and one begun")
    keys = text_keys_bytes(work, layout, machine)
    yield _on_device("keys and values of texts", keys, "made once, needed in every step")
    if work.encoded_latents > 1:
        encoding = image_encoding_bytes(work, layout, machine)
        yield _on_device("activations of ImageEncoding", encoding, "of all frames, a latent one at a time")
    denoising = denoising_bytes(work, layout, machine, plan) - keys - adapter_bytes(work)
    turns = ", two forwards in turns" if plan.take_turns else ""
    yield _on_device("activations of Denoising", denoising, f"with latents{turns}")
    at_once = plan.placement.frames_at_once if plan.placement else 0
    few = f", {at_once} frame{'s' * (at_once > 1)} at once" if at_once else ""
    beside = ", with the part of the decoder in use" if plan.placement and plan.placement.streams_decoder else ""
    yield _on_device(
        "activations of Decoding",
        decoding_bytes(work, layout, machine, plan) - history,
        f"{plan.decode_chunk} latent frame{'s' * (plan.decode_chunk > 1)} at a time{few}{beside}",
    )


def _on_device(part: str, num_bytes: int, why: str) -> Place:
    return Place(part=part, place="device", num_bytes=num_bytes, why=why)


def _on_host(part: str, num_bytes: int, why: str, network: str = "") -> Place:
    return Place(part=part, place="host", num_bytes=num_bytes, why=why, network=network)


def _in_files(row: Place) -> Place:
    return msgspec.structs.replace(row, place="files", why=f"{row.why}; the host has no room for it")
