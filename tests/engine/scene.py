"""An engine before replicas without processes, which denoise step by step: what jobs in turns are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ringlight import Engine, EngineConfig
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.replicas import GivenReplicas
from tests.engine.processes import wait_until
from tests.engine.replicas import TurningReplica
from tests.engine.requests import small

PATIENCE = 10.0
FILM, CLIP = {"num_inference_steps": 400}, {"num_inference_steps": 2}


class Scene:
    """An engine before replicas that denoise step by step, and what is asked of it."""

    def __init__(self, tiny: Path, folder: Path, *replicas: TurningReplica, **settings: Any) -> None:
        self.folder = folder
        self.replicas = replicas or (TurningReplica(),)
        settings = {"supervised": True, "num_replicas": len(self.replicas)} | settings
        self.engine = Engine(EngineConfig(model_path=str(tiny)), source=GivenReplicas(*self.replicas), **settings)

    @property
    def replica(self) -> TurningReplica:
        (replica,) = self.replicas
        return replica

    @property
    def events(self) -> list[str]:
        """What its replica did, but for its start and end."""
        return [event for event in self.replica.events if event not in ("start", "close")]

    def stop(self, prompt: str, step: int) -> None:
        """No replica goes on with a job of this prompt after so many steps, until they are told otherwise."""
        for replica in self.replicas:
            before = replica.stop
            replica.stop_at(lambda p, s, before=before: (p, s) == (prompt, step) or before(p, s))  # type: ignore[misc]

    def go_on(self) -> None:
        for replica in self.replicas:
            replica.stop_at()

    def submit(self, prompt: str, kind: dict[str, int], keeps: bool = True, **asked: Any) -> Job:
        keep = Keep(state_file=str(self.folder / f"{prompt}.state")) if keeps else None
        request, output = small(self.engine, prompt, **kind), str(self.folder / f"{prompt}.mp4")
        return self.engine.submit(request, output, submission=Submission(keep=keep, **asked))

    def film_at(self, step: int, prompt: str = "film", **asked: Any) -> Job:
        """A film that has come so far, and waits there."""
        self.stop(prompt, step)
        film = self.submit(prompt, FILM, **asked)
        wait_until(lambda: film.state.step == step, PATIENCE)
        return film


def done(*jobs: Job) -> None:
    for job in jobs:
        job.wait(PATIENCE)
