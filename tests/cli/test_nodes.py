"""`ringlight generate --nnodes 2`: two machines, for which stand two network namespaces joined by a cable.

Where those cannot be made (it takes root and `ip`), both nodes run on the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ringlight import Engine
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.cli.commands import Done, Running
from tests.engine.processes import ends

pytestmark = pytest.mark.slow

WATCHDOG_SECONDS = 2
SOON = 20.0  # the watchdog, and a machine with other things to do
VIDEO: dict[str, int] = {"width": 96, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}
LONG = ["--size", "256x160", "--num-frames", 5, "--num-inference-steps", 1000]


class Nodes:
    """Two places to run a command in, and the address of the first."""

    def __init__(self, host: str, namespaces: Sequence[str], cable: str = "") -> None:
        self.host = host
        self.namespaces = namespaces
        self.cable = cable

    @contextlib.contextmanager
    def run(self, folder: Path, commands: list[list[object]]) -> Iterator[list[Running]]:
        """`generate` on each node with its own flags, all ended in the end. Files of a node lie in a folder of its."""
        address = f"{self.host}:{self._free_port()}"
        running: list[Running] = []
        try:
            for rank, flags in enumerate(commands):
                log = folder / f"log{rank}"
                log.mkdir(parents=True)
                common = ["--num-threads", 1, "--watchdog-timeout", WATCHDOG_SECONDS, "--prompt", "a cat"]
                nodes = ["--nnodes", 2, "--node-rank", rank, "--dist-init-addr", address]
                running.append(Running(log, "generate", *common, *nodes, *flags, namespace=self.namespaces[rank]))
            yield running
        finally:
            for each in running:
                each.kill()

    def cut(self, other: Running) -> None:
        """Have the second node fall silent without a word: unplug it, or, where there is no cable, stop its rank."""
        if self.cable:
            ip("-n", self.cable, "link", "set", "cable", "down")
        else:
            os.kill(other.workers()[0], signal.SIGSTOP)

    def mend(self) -> None:
        if self.cable:
            ip("-n", self.cable, "link", "set", "cable", "up")

    def _free_port(self) -> int:
        if self.cable:
            return 29500
        with socket.create_server((self.host, 0)) as server:
            port: int = server.getsockname()[1]
            return port


def inside(namespace: str) -> list[str]:
    """What a command begins with to run there."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def namespaces() -> Iterator[Nodes]:
    """Two network namespaces that see each other and nothing else. Raises CalledProcessError where they may not be."""
    names = [f"ringlight-{os.getpid()}-{rank}" for rank in range(2)]
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for rank, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.213.7.{rank + 1}/24", "dev", "cable")
            for interface in ("lo", "cable"):
                ip("-n", name, "link", "set", interface, "up")
        yield Nodes("10.213.7.1", names, cable=names[0])
    finally:
        for name in made:
            ip("netns", "delete", name)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        found = Nodes("127.0.0.1", ["", ""])
        if os.geteuid() == 0 and shutil.which("ip") is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                found = stack.enter_context(namespaces())
        yield found


def test_gloo_is_told_the_interface_that_reaches_node_0(nodes: Nodes) -> None:
    program = f"from ringlight.engine.network import *; print(interface_of(address_towards({nodes.host!r}, 29500)))"
    found = [
        subprocess.run(
            [*inside(namespace), sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()
        for namespace in nodes.namespaces
    ]
    assert found == ["cable" if nodes.cable else "lo"] * 2


def flags_of(tiny: Path, output: Path, *more: object) -> list[object]:
    return ["--model-path", tiny, "-o", output, "--num-gpus", 2, *more]


def video_flags() -> list[object]:
    return [word for name, value in VIDEO.items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.mark.parametrize(("split", "layout"), [([], "c2u1r1"), (["--cfg-degree", 1], "u1r2")])
def test_two_nodes_make_one_ranks_video(
    nodes: Nodes, engine: Engine, tiny: Path, tmp_path: Path, split: list[object], layout: str
) -> None:
    """Between nodes the sequence goes round a ring. Node 1 writes nothing, and says only how ranks are laid out."""
    made, expected = tmp_path / "film.npy", tmp_path / "expected.npy"
    flags = [*flags_of(tiny, made), *video_flags(), *split]
    with nodes.run(tmp_path, [flags, flags]) as running:
        first, second = (each.end() for each in running)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert layout in first.out.splitlines()[-2]
    assert (second.out, "Traceback" in first.err + second.err) == ("", False)
    assert layout in second.err
    engine.submit(engine.request("a cat", **VIDEO), str(expected)).wait(60)
    assert np.abs(np.load(made) - np.load(expected)).max() < 2e-5


def in_the_middle(nodes: Nodes, tiny: Path, folder: Path) -> contextlib.AbstractContextManager[list[Running]]:
    (folder / "videos").mkdir()
    flags = flags_of(tiny, folder / "videos" / "film.mp4", *LONG)
    return nodes.run(folder, [flags, flags])


def left_in(folder: Path) -> list[Path]:
    return list((folder / "videos").iterdir())


def end_soon(running: Running) -> Done:
    began = time.monotonic()
    done = running.end()
    assert time.monotonic() - began < SOON
    return done


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_killed_ends_the_other(nodes: Nodes, tiny: Path, tmp_path: Path, victim: int) -> None:
    with in_the_middle(nodes, tiny, tmp_path) as running:
        running[0].wait_for("Denoising")
        ranks = [rank for each in running for rank in each.workers()]
        running[victim].kill()
        done = end_soon(running[1 - victim])
        assert done.code == 4
        assert re.match(rf"ringlight: worker_error: node {victim} \([^ ]+\) is lost: ", done.err.splitlines()[-1])
        assert all(map(ends, ranks))
    if victim == 1:
        assert left_in(tmp_path) == []


def test_a_node_that_falls_silent_ends_both(nodes: Nodes, tiny: Path, tmp_path: Path) -> None:
    """No connection is closed then, and only the pulse can tell."""
    with in_the_middle(nodes, tiny, tmp_path) as running:
        running[0].wait_for("Denoising")
        ranks = [rank for each in running for rank in each.workers()]
        nodes.cut(running[1])
        try:
            done = end_soon(running[0])
            assert (done.code, end_soon(running[1]).code) == (4, 4)
            assert "has not been heard of for 2 s" in done.err
        finally:
            nodes.mend()
        assert all(map(ends, ranks))
    assert left_in(tmp_path) == []


def test_ctrl_c_on_node_0_ends_both(nodes: Nodes, tiny: Path, tmp_path: Path) -> None:
    with in_the_middle(nodes, tiny, tmp_path) as running:
        running[0].wait_for("Denoising")
        ranks = [rank for each in running for rank in each.workers()]
        running[0].interrupt(signal.SIGINT)
        first, second = map(end_soon, running)
        assert (first.code, first.out, first.err.splitlines()[-1]) == (130, "", "ringlight: cancelled")
        assert (second.code, second.out) == (0, "")
        assert all(map(ends, ranks))
    assert left_in(tmp_path) == []


def test_ctrl_c_on_node_1_ends_both(nodes: Nodes, tiny: Path, tmp_path: Path) -> None:
    with in_the_middle(nodes, tiny, tmp_path) as running:
        running[0].wait_for("Denoising")
        running[1].interrupt(signal.SIGINT)
        assert [end_soon(each).code for each in running] == [4, 130]
    assert left_in(tmp_path) == []


def test_nodes_with_different_flags_refuse(nodes: Nodes, tiny: Path, tmp_path: Path) -> None:
    """All that they must agree about is in tests/worker/test_meeting."""
    both = flags_of(tiny, tmp_path / "film.npy", *LONG)
    with nodes.run(tmp_path, [both, [*both, "--dtype", "bfloat16", "--num-slices", 3]]) as running:
        done = [each.end() for each in running]
    for each in done:
        assert (each.code, each.out) == (3, "")
        said = each.err.splitlines()[-1]
        assert "invalid_layout: ranks disagree about dtype " in said
        assert "; num-slices " in said


def test_nodes_with_different_weights_refuse(nodes: Nodes, tiny: Path, tmp_path: Path) -> None:
    """Same shapes, other numbers: nothing would fail, and the video would be of neither."""
    other = tmp_path / "other"
    DEMO.write(other, "tiny", seed=1)
    flags = [flags_of(folder, tmp_path / "film.npy", *LONG) for folder in (tiny, other)]
    with nodes.run(tmp_path, flags) as running:
        done = [each.end() for each in running]
    assert [each.code for each in done] == [3, 3]
    assert all("ranks disagree about checkpoint" in each.err for each in done)
