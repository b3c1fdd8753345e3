"""Real ranks: processes forked from the warm test process, in a real gloo group."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import ParallelMesh

TIMEOUT = timedelta(seconds=60)


def on_ranks(layout: ParallelLayout, work: Callable[[ParallelMesh], Tensor]) -> list[Tensor]:
    """What `work` returns on each rank of a layout, in order. Raises when a rank fails; every rank has then ended."""
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, layout, work, Path(folder)) for rank in range(layout.num_ranks)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise AssertionError(f"ranks of {layout.name} ended with {statuses}; their tracebacks are above")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(layout.num_ranks)]


def _fork(rank: int, layout: ParallelLayout, work: Callable[[ParallelMesh], Tensor], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), layout.num_ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=layout.num_ranks, timeout=TIMEOUT)
        with torch.inference_mode():
            link = Link()
            link.open("gloo", torch.device("cpu"))
            result = work(ParallelMesh.of(layout, rank, link))
        torch.save(result.clone(), folder / f"{rank}.pt")
        dist.barrier()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
