"""Kernels against the reference, log-sum-exp included, and merging of parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ringlight.core.errors import InvalidSetting
from ringlight.core.kernels import ATTENTION
from ringlight.kernels.attention.kernel import choose_kernel, load_kernel, merge
from ringlight.kernels.attention.reference import Reference

CPU = torch.device("cpu")
LENGTHS = [(1, 1), (1, 7), (5, 3), (33, 64), (175, 175), (13, 512)]


def random_qkv(queries: int, keys: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """q (1, S, 4, 32), k and v (1, L, 4, 32)."""
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    return tuple(torch.randn(1, n, 4, 32, generator=generator).to(dtype) for n in (queries, keys, keys))


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_kernel_agrees_with_the_reference_in_float64(name: str, queries: int, keys: int) -> None:
    kernel = load_kernel(name)
    if not kernel.supports(CPU, torch.float32, 32):
        pytest.skip(f"{name} needs CUDA; benchmarks/gpu_check.py checks it there")
    q, k, v = random_qkv(queries, keys)
    out, lse = kernel(q, k, v)
    exact, exact_lse = Reference()(q.double(), k.double(), v.double())
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]
    assert lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse, exact_lse, rtol=0, atol=4e-6)


@pytest.mark.parametrize("cut", [1, 7, 63])
def test_merged_halves_are_the_whole(cut: int) -> None:
    kernel = choose_kernel(CPU, torch.float32, 32)
    q, k, v = random_qkv(33, 64)
    parts = [kernel(q, k[:, part], v[:, part]) for part in (slice(0, cut), slice(cut, None))]
    out, lse = merge(*parts[0], *parts[1])
    whole, whole_lse = kernel(q, k, v)
    torch.testing.assert_close(out, whole, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=4e-6)


def test_merging_without_the_log_sum_exp_would_show() -> None:
    """A planted bug: halves averaged as if their scores weighed alike."""
    kernel = choose_kernel(CPU, torch.float32, 32)
    q, k, v = random_qkv(33, 64)
    (first, _), (second, _) = (kernel(q, k[:, part], v[:, part]) for part in (slice(0, 7), slice(7, None)))
    whole, _ = kernel(q, k, v)
    assert ((first + second) / 2 - whole).abs().max() > 0.1


def test_merge_survives_scores_far_apart() -> None:
    out, lse = merge(
        torch.ones(1, 1, 1, 2), torch.full((1, 1, 1), -1e4), torch.full((1, 1, 1, 2), 3.0), torch.full((1, 1, 1), 1e4)
    )
    assert torch.equal(out, torch.full_like(out, 3.0))
    assert torch.equal(lse, torch.full_like(lse, 1e4))


def test_flash_on_a_cpu_refuses_no_queries_and_no_keys() -> None:
    """The kernel itself would end the process."""
    kernel = load_kernel("flash_cpu")
    q, k, v = random_qkv(3, 3)
    with pytest.raises(AssertionError, match="at least one query"):
        kernel(q[:, :0], k, v)
    with pytest.raises(AssertionError, match="at least one query"):
        kernel(q, k[:, :0], v[:, :0])


def test_no_kernel_is_an_error_that_names_the_place() -> None:
    with pytest.raises(
        InvalidSetting, match=r"no attention kernel with log-sum-exp for torch.float32 heads of 32 on meta"
    ):
        choose_kernel(torch.device("meta"), torch.float32, 32)


class Tried:
    """A kernel that supports everything and does what it is told to."""

    def __init__(self, name: str, attend: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.name, self._attend, self.num_calls = name, attend, 0

    def supports(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        return True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.num_calls += 1
        return self._attend(q, k, v)


def has_no_plan(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("cuDNN Frontend error:\n No valid execution plans built.")


def has_no_plan_for_many(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return has_no_plan(q, k, v) if q.shape[1] == 64 else Reference()(q, k, v)


def is_not_a_number(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = Reference()(q, k, v)
    out[..., -1, -1, -1] = math.nan
    return out, lse


def forgets_a_key(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return Reference()(q, k[:, :-1], v[:, :-1])


def counts_in_twos(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = Reference()(q, k, v)
    return out, lse / math.log(2)


def pads_its_rows(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = Reference()(q, k, v)
    return out, torch.nn.functional.pad(lse, (0, 0, 0, -lse.shape[1] % 32))


FAULTY = {
    has_no_plan: "1 queries to 64 keys: RuntimeError: cuDNN Frontend error: No valid execution plans built.",
    has_no_plan_for_many: "64 queries to 64 keys: RuntimeError: cuDNN Frontend error",
    is_not_a_number: "output is wrong by nan",
    forgets_a_key: "output is wrong by",
    counts_in_twos: "log-sum-exp is wrong by",
    pads_its_rows: "log-sum-exp is (1, 32, 4) in torch.float32, not (1, 1, 4)",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fault", FAULTY, ids=lambda fault: fault.__name__)
def test_a_kernel_that_is_wrong_is_passed_over_and_told(
    fault: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right, unasked = Tried("right", Reference()), Tried("unasked", Reference())
    assert choose_kernel(CPU, dtype, 32, 4, kernels=[Tried("first", fault), right, unasked]) is right
    assert unasked.num_calls == 0
    (line,) = caplog.messages
    assert line.startswith(f"attention kernel first is passed over for {dtype} on cpu: ")
    assert FAULTY[fault] in line


def test_where_no_kernel_is_right_the_error_says_why_of_each() -> None:
    with pytest.raises(InvalidSetting, match=r"\(a: 1 queries .* No valid .*; b: .*nan.*\); use --dtype float32"):
        choose_kernel(CPU, torch.bfloat16, 32, 4, kernels=[Tried("a", has_no_plan), Tried("b", is_not_a_number)])


def test_running_out_of_memory_is_no_fault_of_a_kernel() -> None:
    def is_too_large(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        choose_kernel(CPU, torch.bfloat16, 32, 4, kernels=[Tried("first", is_too_large), Tried("right", Reference())])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_right_kernel_passes_its_trial_at_the_real_size(dtype: torch.dtype) -> None:
    assert choose_kernel(CPU, dtype, head_dim=128, num_heads=24).name == "flash_cpu"
