"""Known faults of versions of cuDNN, which torch brings along."""

from __future__ import annotations

# Convolutions in three dimensions came out wrong, in bfloat16 and with TensorFloat-32 (pytorch#163539, #167024).
FIRST_WRONG, FIRST_RIGHT = 90800, 91501
REMEDY = "install torch 2.10 or later, or use --vae-dtype float32 --no-tf32"


def convolution_fault(version: int | None) -> str | None:
    """Known fault of the VAE's convolutions in a cuDNN version such as 91002 (9.10.2); None if there is none."""
    if version is None or not FIRST_WRONG <= version < FIRST_RIGHT:
        return None
    name = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    return f"cuDNN {name} can compute the VAE wrong, in bfloat16 and with TensorFloat-32"
