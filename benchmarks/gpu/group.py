"""Groups of rank processes that share one device, over gloo: NCCL refuses two ranks on one GPU."""

from __future__ import annotations

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from gpu.rates import allow_tf32
from gpu.report import error_line
from gpu.scale import Scale
from gpu.watching import start_method
from ringlight.parallel.link import Link

MESSAGE_TIMEOUT = timedelta(seconds=300)
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Finding:
    """How far ranks are from one rank, or both from the truth where `one_rank` is given. Seconds since its start."""

    name: str
    error: float
    one_rank: float | None = None
    seconds: float = 0.0


Checks = Callable[[Scale, int, int, Link], Iterator[Finding]]  # of a rank, and how many there are


def run_group(scale: Scale, num_ranks: int, checks: Checks, limit_seconds: float) -> Iterator[list[Finding]]:
    """What all ranks found in each check, rank by rank, once all have ended.

    `checks` is a function of a module: ranks are new processes, forked as long as this one has not touched the device,
    for what they import takes longer than what they do. At the end raises RuntimeError when a rank
    failed, TimeoutError when one had not ended after `limit_seconds`; what all of them found before that is there.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        method = "spawn" if torch.cuda.is_initialized() else start_method()
        process = multiprocessing.get_context(method).Process
        ranks = [
            process(target=_run_rank, args=(rank, num_ranks, scale, checks, folder), daemon=True)
            for rank in range(num_ranks)
        ]
        for each in ranks:
            each.start()
        stop = time.perf_counter() + limit_seconds
        while any(process.is_alive() for process in ranks) and time.perf_counter() < stop:
            time.sleep(POLL_SECONDS)
        late = [rank for rank, process in enumerate(ranks) if process.is_alive()]
        for process in ranks:
            process.kill()
            process.join()
        yield from map(list, zip(*(_read_findings(folder, rank) for rank in range(num_ranks)), strict=False))
        if late:
            raise TimeoutError(f"ranks {late} of {num_ranks} had not ended after {limit_seconds:.0f} s")
        if any(process.exitcode for process in ranks):
            raise RuntimeError("; ".join(_explain(folder, rank, ranks[rank].exitcode) for rank in range(num_ranks)))


def _run_rank(rank: int, num_ranks: int, scale: Scale, checks: Checks, folder: Path) -> None:
    """A rank's process: every finding is written as soon as it is known."""
    started = time.perf_counter()
    if scale.device.type == "cuda":
        torch.cuda.set_device(scale.device)
    else:
        torch.set_num_threads(1)
    allow_tf32(False)
    try:
        store = FileStore(str(folder / "store"), num_ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=MESSAGE_TIMEOUT)
        with _findings_of(rank, folder).open("w", encoding="utf-8") as file:
            link = Link()
            link.open("gloo", scale.device)
            for finding in checks(scale, rank, num_ranks, link):
                timed = replace(finding, seconds=time.perf_counter() - started)
                print(json.dumps(asdict(timed)), file=file, flush=True)
        dist.barrier()
    except Exception as error:  # whatever breaks is told by the process that waits for this rank
        traceback.print_exc()
        (folder / f"{rank}.error").write_text(error_line(error), encoding="utf-8")
        raise SystemExit(1) from None


def _read_findings(folder: Path, rank: int) -> list[Finding]:
    path = _findings_of(rank, folder)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Finding(**json.loads(line)) for line in lines]


def _findings_of(rank: int, folder: Path) -> Path:
    return folder / f"{rank}.jsonl"


def _explain(folder: Path, rank: int, exit_code: int | None) -> str:
    told = folder / f"{rank}.error"
    return f"rank {rank}: " + (told.read_text(encoding="utf-8") if told.exists() else f"exit code {exit_code}")
