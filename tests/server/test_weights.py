"""A checkpoint that cannot be trusted ends `ringlight serve` in one line, and nothing listens afterwards.

Some damages are served; all are loaded as a worker does. `benchmarks/fuzz.py` serves all of them.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from ringlight.core.errors import InvalidCheckpoint
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.ours import load_pipeline
from tests.server.served import Served
from tests.worker.test_loading import Trap
from tests.worker.weights import FILE, rewrite

pytestmark = pytest.mark.slow

EXIT_SECONDS = 60.0
SHARDED = {"missing shards", "a shard whose link leads nowhere"}


def pickled(folder: Path) -> None:
    (folder / "transformer" / FILE).unlink()
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(trap(folder))


def disguised(folder: Path) -> None:
    (folder / "transformer" / FILE).write_bytes(trap(folder))


def pickled_encoder(folder: Path) -> None:
    for weights in (folder / "text_encoder").glob("*.safetensors"):
        weights.unlink()
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(trap(folder))


def trap(folder: Path) -> bytes:
    return pickle.dumps(Trap(folder / "sprung"))


def endless_header(folder: Path) -> None:
    (folder / "vae" / FILE).write_bytes(struct.pack("<Q", 2**60) + b"{}")


def large_header(folder: Path) -> None:
    """A gigabyte of header that takes no place on the disk."""
    path = folder / "transformer" / FILE
    path.write_bytes(struct.pack("<Q", 2**30) + b"{")
    os.truncate(path, 2**30 + 8)


def header_of_many(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({f"t{number}": entry for number in range(200_000)}).encode()
    (folder / "transformer" / FILE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def header_of_a_petabyte(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**24, 2**24], "data_offsets": [0, 2**50]}
    header = json.dumps({"patch_embedding.weight": entry}).encode()
    (folder / "transformer" / FILE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def wrong_shapes(folder: Path) -> None:
    name = "blocks.0.ffn.net.2.weight"
    rewrite(folder / "transformer" / FILE, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))


def missing_shards(folder: Path) -> None:
    for shard in sorted((folder / "transformer").glob("*.safetensors"))[:2]:
        shard.unlink()


def linked_shard(folder: Path) -> None:
    shard = sorted((folder / "transformer").glob("*.safetensors"))[0]
    shard.unlink()
    shard.symlink_to(folder.parent / "unmounted.safetensors")


def linked_folder(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    (folder / "vae").symlink_to("vae")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "pickled weights": pickled,
    "a pickle under the right name": disguised,
    "a pickled text encoder": pickled_encoder,
    "an endless header": endless_header,
    "a header of a gigabyte": large_header,
    "a header of 200,000 tensors": header_of_many,
    "a tensor of a petabyte": header_of_a_petabyte,
    "wrong shapes": wrong_shapes,
    "missing shards": missing_shards,
    "a shard whose link leads nowhere": linked_shard,
    "a folder whose link leads to itself": linked_folder,
}

SERVED = ("a pickle under the right name", "a header of a gigabyte", "missing shards")
"""What a worker finds in a file, in its head, and in a folder."""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "tiny"
    DEMO.write(folder, "tiny", shard_bytes=2 * 2**20)
    return folder


class Ended(NamedTuple):
    """What a server left that could not begin, after so many seconds."""

    folder: Path
    code: int
    log: str
    is_listening: bool
    seconds: float


def serve_damaged(place: Path, checkpoint: Path, damage: str) -> Ended:
    """Serve a damaged copy of a checkpoint until it ends."""
    shutil.copytree(checkpoint, place / "checkpoint")
    DAMAGES[damage](place / "checkpoint")
    began = time.monotonic()
    server = Served(place, place / "checkpoint", "--no-warm-up")
    try:
        code = server.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        code = server.stop(signal.SIGKILL)
    seconds = time.monotonic() - began
    with socket.socket() as probe:
        is_listening = probe.connect_ex(("127.0.0.1", server.port)) == 0
    return Ended(place / "checkpoint", code, server.log, is_listening, seconds)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_worker_refuses_to_load_it(tiny: Path, sharded: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(sharded if damage in SHARDED else tiny, folder)
    DAMAGES[damage](folder)
    with pytest.raises(InvalidCheckpoint) as caught:
        load_pipeline(folder)
    said = str(caught.value)
    assert str(folder) in said and "\n" not in said and len(said) < 2000
    assert not (folder / "sprung").exists()


@pytest.fixture(scope="module")
def ended(tiny: Path, sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """A server for each of some damages, two at a time."""

    def serve(damage: str) -> Ended:
        return serve_damaged(tmp_path_factory.mktemp("damaged"), sharded if damage in SHARDED else tiny, damage)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SERVED, pool.map(serve, SERVED), strict=True))


@pytest.mark.parametrize("damage", SERVED)
def test_it_is_refused_in_one_line(ended: dict[str, Ended], damage: str) -> None:
    folder, code, log, is_listening, _ = ended[damage]
    assert code == 3, log
    assert not is_listening
    said = [line for line in log.splitlines() if not line.startswith("{")]
    assert len(said) == 1 and said[0].startswith("ringlight: invalid_checkpoint: "), log
    assert str(folder) in said[0] and len(said[0]) < 2000
    assert "Traceback" not in log
    assert not (folder / "sprung").exists()
