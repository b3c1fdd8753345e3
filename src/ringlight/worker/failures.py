"""Failures: from any error to one that is reported."""

from __future__ import annotations

import errno
import traceback

import torch

from ringlight.core import messages
from ringlight.core.errors import OutOfMemory, OutputError, RinglightError, WorkerError
from ringlight.core.installation import not_importable
from ringlight.core.request import VideoRequest

OUT_OF_MEMORY_WORDS = (  # in small letters
    "out of memory",  # CUDA's runtime and driver, HIP, NCCL
    "out_of_memory",  # the driver's name for it, as cuDNN passes it on
    "allocate memory",  # torch's CPU allocator, and the system
    "alloc_failed",  # cuBLAS and cuDNN
    "allocation_failed",  # cuDNN
    "unable to find an engine to execute this computation",  # cuDNN without room for a workspace
)
DEVICE_FAULT_WORDS = ("CUDA error:", "HIP error:")  # where a library hands on what the device's runtime has said
OUTPUT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOENT)


def as_failure(error: Exception, job: messages.RunJob) -> RinglightError:
    """The error to report for a job."""
    return output_error(error, job) or as_ringlight_error(error, too_large_message(job.request))


def output_error(error: Exception, job: messages.RunJob) -> OutputError | None:
    """Error to report if the output cannot be written, else None."""
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRNOS:
        return not_written(error, job)
    return None


def not_written(error: OSError, job: messages.RunJob) -> OutputError:
    """Error to report of a failure in writing the output."""
    return OutputError(f"{job.output}: {error.strerror}; make room or choose another place, and ask again")


def too_large_message(request: VideoRequest) -> str:
    """Message on a request that ran out of memory, with the remedies."""
    return (
        f"{request.extent} does not fit into this device's memory; "
        "ask for a smaller size or fewer frames, spread it over more ranks, or use --vae-dtype bfloat16"
    )


def as_ringlight_error(error: Exception, too_large: str) -> RinglightError:
    """The error to report: ours as it is, `too_large` for running out of memory, all else with a traceback logged."""
    if isinstance(error, RinglightError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(too_large)
    traceback.print_exception(error)
    if isinstance(error, ImportError):
        return not_importable(error)
    return WorkerError(f"{type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Libraries below torch say so in words of their own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY_WORDS)


def is_device_fault(error: Exception) -> bool:
    """Whether the device has failed in a way that all later work in this process would meet too.

    After an illegal access, say, CUDA refuses everything until the process ends.
    """
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in DEVICE_FAULT_WORDS)
