"""A CUDA device that computes nothing: a CPU build of torch runs the networks on it at full size, in a second.

Fake tensors (torch's FakeTensorMode) have a shape, a dtype and a device, and no memory. A CPU build lacks one thing
that operations on CUDA tensors ask for: a device guard. A do-nothing one is compiled against torch's own headers.
Loading it changes a process for good, so everything here runs in a fork, as the ranks of tests/parallel do.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace { C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>); }
"""
ATEN = torch.ops.aten
COMPILERS = ("g++", "clang++", "c++")


def compiler() -> str | None:
    """The first C++ compiler that there is."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


@functools.cache
def guard() -> Path:
    """The compiled guard; made once a run, in a folder that ends with it."""
    import torch._dynamo
    import torch.fx.experimental.symbolic_shapes

    folder = _folder()
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    root = Path(torch.__file__).parent
    cxx = compiler()
    assert cxx is not None, "asked before"
    flags = ["-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}"]
    subprocess.run([cxx, *flags, str(source), "-o", str(library), f"-L{root / 'lib'}", "-lc10"], check=True)
    return library


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ringlight-fake-cuda-")


def _folder() -> Path:
    return Path(_kept().name)


FUSED = torch.library.Library("fused", "DEF")
FUSED.define("rms_norm(Tensor x, Tensor weight) -> Tensor")
FUSED.impl("rms_norm", lambda x, weight: torch.empty_like(x), "Meta")
FUSED.define("conv3d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding) -> Tensor")


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int]) -> Tensor:
    """cuDNN's layout: channels last where the input or the weight has it (a build without cuDNN has another one)."""
    ends = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    sizes = [(size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in ends]
    last = torch.channels_last_3d
    is_last = last in (suggest_memory_format(x), suggest_memory_format(weight))
    layout = last if is_last else torch.contiguous_format
    return torch.empty(len(x), len(weight), *sizes, dtype=x.dtype, device="meta", memory_format=layout)


FUSED.impl("conv3d", _convolved, "Meta")


class FusedKernels(TorchFunctionMode):
    """Takes the fused kernels that torch takes for a plain CUDA tensor. For a fake one it would write them out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.rms_norm and args[0].is_cuda:
            return _rms_norm(*args, **kwargs)
        if func is F.conv3d and args[0].is_cuda:
            return torch.ops.fused.conv3d(*args, **kwargs)
        if func is F.scaled_dot_product_attention and args[0].is_cuda:
            return ATEN._scaled_dot_product_efficient_attention(*args, None, False)[0]
        return func(*args, **kwargs)


def _rms_norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
    """aten._fused_rms_norm, which a CPU build lacks."""
    assert x.dtype == weight.dtype, "of two dtypes torch would write the norm out"
    normed: Tensor = torch.ops.fused.rms_norm(x, weight)
    return normed


def on_fake_cuda(work: Callable[[], T]) -> T:
    """What `work` returns, run in a fork with a fake CUDA device. Raises AssertionError when it fails."""
    library = guard()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        child = os.fork()
        if not child:
            _run(work, library, result)
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"the fork ended with {status}; its traceback is above")
        found: T = pickle.loads(result.read_bytes())
        return found


def _run(work: Callable[[], T], library: Path, result: Path) -> None:
    """In the fork. Never returns."""
    status = 1
    try:
        torch.set_num_threads(1)
        ctypes.CDLL(str(library))
        # Not inference mode: torch.tensor(..., device="cuda") fails there.
        with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(), FusedKernels():
            made = work()
        result.write_bytes(pickle.dumps(made))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
