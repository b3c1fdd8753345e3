"""One video by Ulysses and by a ring of two ranks: the same latents, and where the seconds went.

    python examples/many_ranks.py CHECKPOINT

On a machine with GPUs a rank is a GPU, elsewhere a process. The engine has two ranks, and each job says its layout.
"""

from __future__ import annotations

import sys

import numpy as np
from safetensors.numpy import load_file

from ringlight import AskedLayout, Engine, EngineConfig, ParallelLayout


def main(checkpoint: str) -> None:
    config = EngineConfig(model_path=checkpoint, asked_layout=AskedLayout(num_gpus=2))
    with Engine(config) as engine:
        request = engine.request("a paper lantern drifts across a calm lake at dawn", seed=1)
        for name in ("u2r1", "u1r2"):
            job = engine.submit(request, f"{name}.safetensors", layout=ParallelLayout.parse(name))
            print(f"## {name}\n\n{job.wait().table()}\n")
    one, other = (load_file(f"{name}.safetensors")["latents"] for name in ("u2r1", "u1r2"))
    print(f"the largest difference of any latent: {np.abs(one - other).max():.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
