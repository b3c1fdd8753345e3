"""All of this folder needs a C++ compiler, once, for some three seconds."""

from __future__ import annotations

import pytest

from tests.fake_cuda.device import COMPILERS, compiler


@pytest.fixture(autouse=True, scope="session")
def _compiler() -> None:
    if compiler() is None:
        pytest.skip(f"no C++ compiler ({', '.join(COMPILERS)}) to make a device guard for fake CUDA tensors with")
