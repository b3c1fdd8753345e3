"""Costs of a request's LoRAs while it denoises: bytes beside the weights, and seconds of a block.

Over weights in eight bits they come on the fly, and over weights that lie on the host they are merged for each pass.
On a device that has all weights they are merged before the job, but for those that rounding would eat: nobody knows of
these before they are read, and they are few operations.
"""

from __future__ import annotations

from ringlight.core.plan import Placement
from ringlight.core.portions import MERGED_NUMBERS
from ringlight.families.layers.matrix import Matrix
from ringlight.families.work import Work
from ringlight.planner.machine import Machine

VALUE_BYTES = 2  # of a LoRA's values, as nearly all files have them
FLOAT = 4
AT_ONCE = 3  # pieces of a merge: of the weight, of what is added, and of what one more LoRA adds
COPIES = 2  # of blocks that a CPU merges: the one in use, and the next one, of which the first products begin


def adapter_bytes(work: Work) -> int:
    """Bytes of the LoRAs of the expert that has most, on its device while it works."""
    return max(
        sum(lora.num_bytes for lora in work.request.lora if expert in lora.experts)
        for expert in range(work.spec.num_experts)
    )


def hosted_adapter_bytes(work: Work, machine: Machine) -> int:
    """Bytes of all experts' LoRAs in a rank's own main memory, if weights lie there; a CPU has them on its device."""
    return 0 if machine.card.is_cpu else sum(lora.num_bytes for lora in work.request.lora)


def merging_bytes(work: Work) -> int:
    """Bytes of float32 pieces that are merged during denoising.

    Of weights in eight bits biases and norms are merged, if anything.
    """
    sizes = (matrix.inputs * matrix.outputs for matrix in _forward(work) if matrix.held is None)
    return AT_ONCE * FLOAT * min(MERGED_NUMBERS, max(sizes, default=0)) if adapter_bytes(work) else 0


def copied_bytes(work: Work, machine: Machine, placement: Placement) -> int:
    """Bytes of blocks that come changed, on a CPU, which else uses them where the host has them."""
    if not machine.card.is_cpu or not adapter_bytes(work):
        return 0
    block = work.spec.transformer.layers.block.forward_bytes(machine.settings.itemsize)
    return min(COPIES, placement.streamed_blocks) * block


def adding_seconds(work: Work, machine: Machine, own_tokens: int, placement: Placement | None, sharing: int) -> float:
    """Seconds that LoRAs add to a block on a rank with so many tokens; `sharing` forwards share a pass.

    on the fly = 2 operations a value and token / products
    merged     = 2 operations a value of the weight and rank / products in float32
               + bytes of these values, as they come, are summed and rounded / memory, of the blocks that come
    """
    network = work.spec.transformer
    block, values = network.layers.block, adapter_bytes(work) / VALUE_BYTES / network.num_layers
    if not values:
        return 0.0
    rank = values / sum(matrix.inputs + matrix.outputs for matrix in (*_forward(work), *block.to_keys))
    held, plain = ([each for each in _forward(work) if (each.held is not None) == is_held] for is_held in (True, False))
    on_the_fly = 2.0 * own_tokens * rank * sum(matrix.inputs + matrix.outputs for matrix in held) / machine.products
    if placement is None:
        return on_the_fly
    weights = sum(matrix.inputs * matrix.outputs for matrix in plain)
    passed = weights * (2 * machine.settings.itemsize + 8 * FLOAT)
    merged = 2.0 * rank * weights / machine.float32_products + passed / machine.memory_rate
    return on_the_fly + merged * placement.streamed_blocks / network.num_layers / sharing


def _forward(work: Work) -> tuple[Matrix, ...]:
    """Matrices of a block that a forward needs."""
    block = work.spec.transformer.layers.block
    return (block.to_qkv, *block.after_attention)
