"""A video whose process dies goes on where it was: this one kills its own worker in the middle.

python examples/resume.py CHECKPOINT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ringlight import Engine, EngineConfig, Job, Keep, Submission


def children() -> list[int]:
    """The processes that this one has started: its worker."""
    return [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]


def main(checkpoint: str) -> None:
    killed: list[int] = []

    def kill_once(job: Job) -> None:
        if job.state.saved_step > 3 and not killed:
            killed.extend(children())
            print(f"killing {killed} after step {job.state.step}")
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with Engine(EngineConfig(model_path=checkpoint)) as engine:
        keep = Keep(state_file=str(Path("lantern.state").absolute()), save_seconds=0.0)
        request = engine.request("a paper lantern drifts across a calm lake", num_inference_steps=60, seed=1)
        job = engine.submit(request, "lantern.mp4", on_change=kill_once, submission=Submission(keep=keep))
        report = job.wait()
        print(f"went on from step {report.resumed_from_step}, after {job.state.deaths} deaths")


if __name__ == "__main__":
    main(*sys.argv[1:])
