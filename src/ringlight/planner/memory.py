"""Bytes of memory by rank: weights, and the peaks of its stages, from what the code really holds at once.

What the caching allocator reserves beyond that is its slack.
"""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.portions import merges_padding, split_runs
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.planner.adapting import adapter_bytes, copied_bytes, hosted_adapter_bytes, merging_bytes
from ringlight.planner.hardware import RunSettings
from ringlight.planner.machine import Machine

SLACK = 0.15  # of activations, reserved beyond what is allocated: assumed
CPU_SLACK = 0.3  # of activations, what oneDNN needs beside and holes in the heap: 0.15-0.28 measured
LATENTS_HELD = 10  # noise, latents, predictions, the scheduler's history
TEXT_TOKENS = 100  # of a prompt, where only its own are held
WIDENED = 2  # blocks in eight bits that are widened at once: the one in use, and the next one
SLOTS = 3  # a block in use, the next one whose first products begin already, and one on its way
CPU_OWN_BYTES = 200 * 2**20  # of a worker beside weights, what is its own: 162-185 MiB measured idle


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a stage beside what always lies on the device: weights of its own, and what it makes with them."""

    weights_bytes: int = 0
    work_bytes: int = 0
    slack_bytes: int = 0

    @property
    def allocated_bytes(self) -> int:
        return self.weights_bytes + self.work_bytes


class RankMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank.

    `base_bytes` are a CPU process beside its weights (0 on CUDA, where only tensors count), `weights_bytes` those that
    always lie on the device: all, or with a placement none. `stages` by their name.

    `host_bytes` lie in the host's memory, of this rank alone; weights there are shared (Prediction).
    """

    rank: int
    weights_bytes: int
    stages: dict[str, Phase]
    base_bytes: int = 0
    host_bytes: int = 0

    @property
    def denoising_bytes(self) -> int:
        """Bytes of Denoising beside the weights."""
        return self.stages["Denoising"].work_bytes

    @property
    def decoding_bytes(self) -> int:
        """Bytes of Decoding beside the weights."""
        return self.stages["Decoding"].work_bytes

    @property
    def idle_bytes(self) -> int:
        """Bytes while weights are loaded and nothing runs."""
        return self.base_bytes + self.weights_bytes

    @property
    def peak_allocated_bytes(self) -> int:
        return self.idle_bytes + max(stage.allocated_bytes for stage in self.stages.values())

    @property
    def peak_bytes(self) -> int:
        """Bytes that are reserved at most: Peak Allocated and the allocator's slack."""
        return self.idle_bytes + max(stage.allocated_bytes + stage.slack_bytes for stage in self.stages.values())

    @property
    def slack_bytes(self) -> int:
        """Bytes that are reserved beyond what is allocated."""
        return self.peak_bytes - self.peak_allocated_bytes


def memory_by_rank(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> list[RankMemory]:
    """Memory of every rank of a layout that a request runs on."""
    resident = weights_by_rank(work.spec, layout.num_ranks, machine.settings)
    denoising = stage_of("Denoising", denoising_bytes(work, layout, machine, plan), machine)
    decoding = stage_of("Decoding", decoding_bytes(work, layout, machine, plan), machine)
    stages, host = {"Denoising": denoising, "Decoding": decoding}, 0
    if work.encoded_latents > 1:  # of one frame it is less than decoding holds, at any size
        stages["ImageEncoding"] = stage_of("ImageEncoding", image_encoding_bytes(work, layout, machine), machine)
    if plan.placement is not None:
        resident = [0] * layout.num_ranks
        stages = {
            **stages_before(work, layout, machine),
            "Denoising": with_weights(denoising, denoising_weights(work, machine, plan.placement)),
            "Decoding": with_weights(decoding, decoder_weights(work.spec, machine, plan.placement)),
        }
        host = host_history_bytes(work, layout, machine, plan.placement) + hosted_adapter_bytes(work, machine)
    base = base_bytes(machine)
    return [
        RankMemory(rank=rank, weights_bytes=weights, stages=stages, base_bytes=base, host_bytes=host)
        for rank, weights in enumerate(resident)
    ]


def stage_of(name: str, work_bytes: int, machine: Machine) -> Phase:
    """Phase of a stage that holds so much beside its weights, as measured runs correct it, else with slack."""
    growth = machine.hardware.correction.growth
    held = growth.get(name, 1.0) * work_bytes
    slack = 0.0 if growth else CPU_SLACK if machine.card.is_cpu else SLACK
    return Phase(work_bytes=int(held), slack_bytes=int(slack * held))


def with_weights(stage: Phase, weights_bytes: int) -> Phase:
    """Phase with weights of its own."""
    return msgspec.structs.replace(stage, weights_bytes=weights_bytes)


def base_bytes(machine: Machine) -> int:
    """Bytes of a process beside its weights; within a budget of a CPU only what is its own."""
    base = machine.hardware.correction.base_bytes
    is_own = machine.card.is_cpu and machine.settings.memory_budget_bytes > 0
    return min(base, CPU_OWN_BYTES) if is_own else base


def stages_before(work: Work, layout: ParallelLayout, machine: Machine) -> dict[str, Phase]:
    """Phases of the stages before Denoising with a placement.

    Layers of the text encoder lie in slots, on a CPU in the host's memory; for a first frame there is the encoder with
    its activations.
    """
    spec, settings = work.spec, machine.settings
    layers = spec.text_encoder.layers.bytes_of_parts(settings.itemsize)[1:]
    slots = 0 if machine.card.is_cpu else min(SLOTS, len(layers)) * max(layers)
    encoded = spec.text_encoder.peak_elements(spec.max_text_tokens, len(work.prompts)) * settings.itemsize
    encoded += spec.text_encoder.layers.widened_bytes(settings.itemsize)
    stages = {"TextEncoding": with_weights(stage_of("TextEncoding", encoded, machine), slots)}
    if work.encoded_latents:
        encoded = image_encoding_bytes(work, layout, machine)
        weights = spec.vae.encoder.parameters * settings.vae_itemsize
        ways = [with_weights(stage_of("ImageEncoding", encoded, machine), weights)]
        if (network := spec.image_encoder) is not None:  # before the other one comes
            elements = len(work.request.pictures) * network.peak_elements
            seen = stage_of("ImageEncoding", elements * settings.itemsize, machine)
            ways.append(with_weights(seen, network.parameters * settings.itemsize))
        stages["ImageEncoding"] = max(ways, key=lambda way: way.allocated_bytes + way.slack_bytes)
    return stages


def image_encoding_bytes(work: Work, layout: ParallelLayout, machine: Machine) -> int:
    """Peak bytes of ImageEncoding over the weights.

    They are of the encoder, a rank's rows of the picture in float32, or those of the picture and of a portion of the
    frames that follow it, and what is made of these.
    """
    _, _, rows, columns = work.latent_shape
    vae, itemsize = work.spec.vae, machine.settings.vae_itemsize
    own, columns, _ = work.band(layout)
    pictures = len(work.request.pictures) + vae.scale_factor_temporal if work.encoded_latents > 1 else 1
    pixels = 4 * 3 * pictures * own * columns * vae.scale_factor_spatial**2
    latent_size = (work.encoded_latents, rows, columns)
    elements = vae.encoding_elements(latent_size, layout.num_ranks, machine.card.is_cpu, itemsize)
    return elements * itemsize + pixels + 4 * work.condition_values


def block_weights(spec: ModelSpec, machine: Machine, placement: Placement) -> int:
    """Bytes of a transformer's weights on the device while it denoises; of two experts, those of the one at work."""
    layers, streamed, itemsize = spec.transformer.layers, placement.streamed_blocks, machine.settings.itemsize
    slots = 0 if machine.card.is_cpu else min(SLOTS, streamed)
    there = layers.num_blocks - streamed + slots
    return layers.outside_bytes(itemsize) + there * layers.block.forward_bytes(itemsize)


def denoising_weights(work: Work, machine: Machine, placement: Placement) -> int:
    """Bytes of these weights, with the copies that LoRAs need."""
    return block_weights(work.spec, machine, placement) + copied_bytes(work, machine, placement)


def decoder_weights(spec: ModelSpec, machine: Machine, placement: Placement) -> int:
    """Bytes of the decoder's weights on the device while it decodes.

    None if parts come and go one at a time: they count with the activations (`decoding_bytes`).
    """
    return 0 if placement.streams_decoder else sum(spec.vae.decoder.parts) * machine.settings.vae_itemsize


def host_history_bytes(work: Work, layout: ParallelLayout, machine: Machine, placement: Placement) -> int:
    """Bytes of earlier frames that a rank's decoder keeps on the host."""
    own, columns, is_split = work.band(layout)
    elements = work.spec.vae.decoder.host_history_elements(own, columns, is_split, placement.host_history)
    return elements * machine.settings.vae_itemsize if work.latent_shape[1] > 1 else 0


def weights_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """Bytes of the loaded weights by rank, with the kernels that the decoder makes."""
    made = spec.vae.decoder.made_parameters * settings.vae_itemsize
    return [loaded + made for loaded in loaded_by_rank(spec, num_ranks, settings)]


def loaded_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """Bytes of the loaded weights by rank: transformers and VAE whole on every rank; the text encoder in runs."""
    whole = spec.num_experts * spec.transformer.layers.bytes(settings.itemsize)
    whole += (spec.vae.decoder.parameters + spec.vae.encoder.parameters) * settings.vae_itemsize
    whole += 0 if spec.image_encoder is None else spec.image_encoder.parameters * settings.itemsize
    parts = spec.text_encoder.layers.bytes_of_parts(settings.itemsize)
    runs = split_runs(spec.text_encoder.layers.parts, num_ranks)
    return [whole + sum(parts[part] for part in run) for run in runs]


def checkpoint_bytes(spec: ModelSpec, itemsize: int) -> int:
    """Bytes that are read when a model is loaded on one rank."""
    vae = (spec.vae.decoder.parameters + spec.vae.encoder.parameters) * itemsize
    text = sum(spec.text_encoder.layers.bytes_of_parts(itemsize))
    image = 0 if spec.image_encoder is None else spec.image_encoder.parameters * itemsize
    return spec.num_experts * spec.transformer.layers.bytes(itemsize) + vae + text + image


def denoising_bytes(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> int:
    """Peak bytes of Denoising over the weights.

    They are of a forward, or two that alternate, with blocks in eight bits as they are widened; text keys, latents and
    the scheduler's history lie beside, and LoRAs. These are merged when a block is taken, while less than half of that
    is alive.
    """
    network, itemsize, is_cpu = work.spec.transformer, machine.settings.itemsize, machine.card.is_cpu
    forwards = 2 if plan.take_turns else 1
    forward = network.peak_bytes(work.num_tokens, layout, is_cpu, itemsize, plan.num_slices, forwards)
    forward += min(WIDENED, network.num_layers) * network.layers.block.widened_bytes(itemsize)
    forward = max(forward, forward // 2 + merging_bytes(work))
    condition = 4 * (2 * work.condition_values + (work.latent_values if work.condition_values else 0))  # with a step's
    latents = 4 * LATENTS_HELD * work.latent_values
    return forward + text_keys_bytes(work, layout, machine) + latents + condition + adapter_bytes(work)


def text_keys_bytes(work: Work, layout: ParallelLayout, machine: Machine) -> int:
    """Bytes of keys and values of all texts in all blocks, which are made once a request by each expert for itself."""
    network = work.spec.transformer
    rows = TEXT_TOKENS if merges_padding(machine.card.is_cpu) else work.spec.max_text_tokens
    return work.num_forwards(layout) * rows * 2 * network.inner_dim * network.num_layers * machine.settings.itemsize


def spare_bytes(spec: ModelSpec, layout: ParallelLayout, machine: Machine) -> int:
    """Bytes of a GPU beside the loaded weights, on the rank with most of them; 0 on a CPU."""
    if machine.abilities is not None:
        return machine.abilities.spare_bytes
    if machine.card.is_cpu:
        return 0
    return machine.card.memory_bytes - max(loaded_by_rank(spec, layout.num_ranks, machine.settings))


def usable_bytes(machine: Machine) -> int:
    """Bytes of its device that a rank may use: all but the driver's, or a budget that is less.

    Weights for which the host has no room stay in their files.
    """
    return within_budget(machine, machine.card.memory_bytes - machine.card.context_bytes)


def within_budget(machine: Machine, num_bytes: int) -> int:
    """Limit bytes to the memory budget, if there is one."""
    budget = machine.settings.memory_budget_bytes
    return min(num_bytes, budget) if budget else num_bytes


def fits(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> bool:
    """Whether every rank has room for what it reserves."""
    peak = max(rank.peak_bytes for rank in memory_by_rank(work, layout, machine, plan))
    return peak <= usable_bytes(machine)


def decoding_bytes(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> int:
    """Peak bytes of Decoding over the weights that stay: of the decoder, and latents beside it."""
    itemsize = machine.settings.vae_itemsize
    elements = work.spec.vae.decoding_elements(
        work.latent_shape[1:], layout.num_ranks, plan.decode_chunk, machine.card.is_cpu, itemsize, plan.placement
    )
    return elements * itemsize + 4 * LATENTS_HELD // 2 * work.latent_values
