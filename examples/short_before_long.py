"""A short video does not wait for a long one: the long one makes way, and is the same in the end.

python examples/short_before_long.py CHECKPOINT
"""

from __future__ import annotations

import sys
import time

from ringlight import Engine, EngineConfig, Job


def tell(job: Job) -> None:
    """Called whenever a job's state changes, from a thread of the engine."""
    if job.state.stage == "Paused" or job.state.is_over:
        print(f"{job.id}: {'completed' if job.state.is_over else 'paused'} after step {job.state.step}")


def main(checkpoint: str) -> None:
    with Engine(EngineConfig(model_path=checkpoint)) as engine:
        film = engine.request("a storm over the harbour", num_inference_steps=60, seed=1)
        clip = engine.request("a gull lands on a post", num_inference_steps=4, num_frames=5, seed=2)
        engine.start()
        long = engine.submit(film, "storm.mp4", on_change=tell)
        while long.state.step < 3:
            time.sleep(0.01)
        short = engine.submit(clip, "gull.mp4", on_change=tell)
        short.wait()
        print(f"the short one is there; the long one is at {long.state.progress} %")
        report = long.wait()
        print(f"the long one made way {report.pauses} times, in all for {report.paused_seconds:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
