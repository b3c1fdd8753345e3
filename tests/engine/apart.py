"""An engine and ranks that share no folder: the engine's has a name that means nothing to the ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core import courier
from ringlight.core.layout import AskedLayout
from ringlight.engine import process
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.engine.replicas import GivenReplicas
from ringlight.worker.scratch import NAME
from tests import forking
from tests.engine.faults import plant
from tests.engine.processes import wait_until
from tests.engine.requests import small
from tests.forking import Forked

PART_BYTES = 1000  # so that the states and videos of tests have many parts


class Apart:
    """Ranks of a replica with a scratch folder, and their engine, whose jobs have `home` for their files."""

    def __init__(self, engine: Engine, replicas: Sequence[RankedReplica], home: Path, scratch: Path) -> None:
        self.engine, self.replicas, self.home, self.scratch = engine, replicas, home, scratch
        self._number = 0

    @property
    def pids(self) -> list[int]:
        """The ranks of all replicas."""
        return [pid for replica in self.replicas for pid in replica.pids]

    def submit(self, prompt: str = "a cat", name: str = "film.safetensors", keeps: bool = True, **asked: Any) -> Job:
        """A job with a folder of its own in `home`."""
        self._number += 1
        folder = self.home / f"{self._number}"
        folder.mkdir()
        about = {key: asked.pop(key) for key in ("continues", "priority") if key in asked}
        keep = Keep(state_file=str(folder / "state"), save_seconds=0.0, max_repeats=9) if keeps else None
        request = small(self.engine, prompt, **asked)
        return self.engine.submit(request, str(folder / name), submission=Submission(keep=keep, **about))

    def made(self, job: Job) -> bytes:
        """The only file of a job, once it is completed, at the path that its report says."""
        (path,) = job.wait(60).outputs
        assert path == job.output
        return Path(path).read_bytes()

    def at(self, step: int, job: Job) -> Job:
        """The job, once it is so far, and its state is saved."""
        wait_until(lambda: job.state.step >= step and job.state.saved_step > 0)
        return job

    def left(self) -> list[str]:
        """What lies in the scratch folders of ranks, without those."""
        return sorted(str(path.relative_to(self.scratch)) for path in self.scratch.glob(f"{NAME}*/**/*"))

    def files_of(self, job: Job) -> list[str]:
        """What lies in the engine's folder of a job."""
        return sorted(os.listdir(Path(job.output).parent))


def config_of(checkpoint: Path, num_ranks: int) -> EngineConfig:
    """Ranks that are given time: some say nothing for a while."""
    return EngineConfig(
        model_path=str(checkpoint),
        device="cpu",
        num_threads=1,
        asked_layout=AskedLayout(num_gpus=num_ranks),
        watchdog_timeout=60.0,
    )


@contextmanager
def ranks_apart(
    tiny: Path,
    folder: Path,
    num_ranks: int = 1,
    num_replicas: int = 1,
    replica: RankedReplica | None = None,
    home: Path | None = None,
    part_bytes: int = PART_BYTES,
) -> Iterator[Apart]:
    """Ready ranks, which are forked, and fail where prompts say so (`faults`). A replica that is given has its scratch
    folder in `folder`."""
    (real := home or folder / "home").mkdir(exist_ok=True)
    scratch, config = folder / "scratch", config_of(tiny, num_ranks)
    replicas = (
        [replica]
        if replica
        else [
            RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks, scratch=str(scratch)))
            for _ in range(num_replicas)
        ]
    )
    source = GivenReplicas(*replicas)
    there = os.open(real, os.O_RDONLY | os.O_DIRECTORY)

    def part() -> None:
        os.close(there)
        plant()

    def launch(arguments: Sequence[str], inherited: Sequence[int], environment: dict[str, str]) -> Forked:
        return forking.fork_rank(arguments, inherited, environment, prepare=part)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process, "launch", launch)
            patch.setattr(courier, "PART_BYTES", part_bytes)
            with Engine(config, source=source, num_replicas=len(replicas), supervised=True) as engine:
                engine.start()
                wait_until(lambda: {each.status for each in engine.replicas} == {"ready"})
                yield Apart(engine, replicas, Path(f"/proc/self/fd/{there}"), scratch)
        assert list(scratch.iterdir()) == []  # each folder has ended with its process
    finally:
        os.close(there)
