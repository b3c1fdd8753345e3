"""Two videos from Python, one after the other, with progress and a cancel.

    python examples/generate.py CHECKPOINT [PICTURE]

The engine starts one worker process, which loads the checkpoint once; leaving the `with` ends it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ringlight import Engine, EngineConfig, Job
from ringlight.core.errors import Cancelled


def show(job: Job) -> None:
    """Called whenever the job's state changes, from a thread of the engine."""
    state = job.state
    print(f"{job.id[:12]} {state.status:12} {state.stage:20} {state.progress:3d}%")


def main(checkpoint: str, picture: str | None = None) -> None:
    with Engine(EngineConfig(model_path=checkpoint)) as engine:
        image = Path(picture).read_bytes() if picture else None
        request = engine.request("a paper lantern drifts across a calm lake at dawn", image=image, seed=1)
        job = engine.submit(request, "lantern.mp4", on_change=show)
        report = job.wait()
        print(report.table())

        second = engine.submit(engine.request("a whale rises above the clouds", seed=2), "whale.mp4")
        engine.cancel(second)
        try:
            second.wait()
        except Cancelled:
            print("the second one was cancelled")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
