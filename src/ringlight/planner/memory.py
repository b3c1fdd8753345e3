"""Bytes of memory by rank: weights, and the peaks of Denoising and Decoding, from what the code really holds at once.

What the caching allocator reserves beyond that is its slack.
"""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.core.portions import merges_padding, split_runs
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.planner.hardware import RunSettings
from ringlight.planner.machine import Machine

SLACK = 0.15  # of activations, reserved beyond what is allocated: assumed
LATENTS_HELD = 10  # noise, latents, predictions, the scheduler's history
TEXT_TOKENS = 100  # of a prompt, where only its own are held


class RankMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank. `base_bytes` are a CPU process beside its weights (0 on CUDA, where only tensors count)."""

    rank: int
    weights_bytes: int
    denoising_bytes: int
    decoding_bytes: int
    slack_bytes: int
    base_bytes: int = 0

    @property
    def idle_bytes(self) -> int:
        """Loaded, nothing running."""
        return self.base_bytes + self.weights_bytes

    @property
    def peak_allocated_bytes(self) -> int:
        return self.idle_bytes + max(self.denoising_bytes, self.decoding_bytes)

    @property
    def peak_bytes(self) -> int:
        """Peak Allocated and the allocator's slack: what is reserved."""
        return self.peak_allocated_bytes + self.slack_bytes


def memory_by_rank(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> list[RankMemory]:
    """Memory of every rank of a layout that a request runs on."""
    correction = machine.hardware.correction
    slack = 0.0 if correction.growth else SLACK
    denoising = correction.growth.get("Denoising", 1.0) * denoising_bytes(work, layout, machine, plan)
    decoding = correction.growth.get("Decoding", 1.0) * decoding_bytes(work, layout, machine, plan)
    return [
        RankMemory(
            rank=rank,
            weights_bytes=weights,
            denoising_bytes=int(denoising),
            decoding_bytes=int(decoding),
            slack_bytes=int(slack * max(denoising, decoding)),
            base_bytes=correction.base_bytes,
        )
        for rank, weights in enumerate(weights_by_rank(work.spec, layout.num_ranks, machine.settings))
    ]


def weights_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """What is loaded, with the kernels that the decoder makes."""
    made = spec.vae.decoder.made_parameters * settings.vae_itemsize
    return [loaded + made for loaded in loaded_by_rank(spec, num_ranks, settings)]


def loaded_by_rank(spec: ModelSpec, num_ranks: int, settings: RunSettings) -> list[int]:
    """Transformer and VAE whole on every rank; the text encoder in runs."""
    transformer, in_float32 = spec.transformer.layers, spec.transformer.layers.float32_parameters
    whole = (transformer.parameters - in_float32) * settings.itemsize + in_float32 * 4
    whole += (spec.vae.decoder.parameters + spec.vae.encoder.parameters) * settings.vae_itemsize
    parts = spec.text_encoder.layers.parts
    runs = split_runs(parts, num_ranks)
    return [whole + sum(parts[part] for part in run) * settings.itemsize for run in runs]


def checkpoint_parameters(spec: ModelSpec) -> int:
    """All that is read when a model is loaded on one rank."""
    vae = spec.vae.decoder.parameters + spec.vae.encoder.parameters
    return spec.transformer.layers.parameters + vae + sum(spec.text_encoder.layers.parts)


def denoising_bytes(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> int:
    """The peak of Denoising over the weights: of a forward, or two in turns; text keys, latents and the scheduler's
    history lie beside."""
    network, itemsize, is_cpu = work.spec.transformer, machine.settings.itemsize, machine.card.is_cpu
    rows = TEXT_TOKENS if merges_padding(is_cpu) else work.spec.max_text_tokens
    text = work.num_forwards(layout) * rows * 2 * network.inner_dim * network.num_layers * itemsize
    forwards = 2 if plan.take_turns else 1
    forward = network.peak_bytes(work.num_tokens, layout, is_cpu, itemsize, plan.num_slices, forwards)
    return forward + text + 4 * LATENTS_HELD * work.latent_values


def spare_bytes(spec: ModelSpec, layout: ParallelLayout, machine: Machine) -> int:
    """What a GPU has beside the weights that are loaded, on the rank with most of them; nothing on a CPU."""
    if machine.abilities is not None:
        return machine.abilities.spare_bytes
    if machine.card.is_cpu:
        return 0
    return machine.card.memory_bytes - max(loaded_by_rank(spec, layout.num_ranks, machine.settings))


def usable_bytes(machine: Machine) -> int:
    """What tensors of a rank may take of its card."""
    return machine.card.memory_bytes - machine.card.context_bytes


def decoding_bytes(work: Work, layout: ParallelLayout, machine: Machine, plan: JobPlan) -> int:
    """The peak of Decoding over the weights: of the decoder, and latents beside it."""
    itemsize = machine.settings.vae_itemsize
    elements = work.spec.vae.decoding_elements(
        work.latent_shape[1:], layout.num_ranks, plan.decode_chunk, machine.card.is_cpu, itemsize
    )
    return elements * itemsize + 4 * LATENTS_HELD // 2 * work.latent_values
