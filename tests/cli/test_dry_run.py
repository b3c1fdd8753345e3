"""A dry run of `ringlight serve`: what it says, and that it refuses what a start refuses, in the same words."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringlight.cli.main import command
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidInstallation, InvalidSetting, RinglightError
from ringlight.engine.engine import Engine
from ringlight.server.collection.folder import DataFolder
from tests.cli.commands import RINGLIGHT, TIMEOUT_SECONDS, here, ringlight
from tests.cli.dry_runs import Dry
from tests.core.checkpoints import copy_json

PAGE = (
    "--model-type diffusion --model-path DIR "
    "--num-gpus {0} --sp-degree {0} --ulysses-degree 1 --ring-degree {0} --port 8898"
)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_pages_command_word_for_word(checkpoint: Path, ranks: int) -> None:
    command = PAGE.format(ranks).replace("DIR", str(checkpoint)).split()
    done = here("serve", *command, "--dry-run", folder=checkpoint.parent)
    assert (done.code, done.err) == (0, "")
    name = f"u1r{ranks}"
    assert f"\nlayout  {name}: " in done.out
    assert "\nmodel   ringlight-demo-tiny\n" in done.out
    assert done.out.endswith(f"\nfolder  {checkpoint.parent / 'ringlight-data'}\n")
    assert not (checkpoint.parent / "ringlight-data").exists()


def test_random_weights_need_no_files(dry: Dry, tiny: Path, tmp_path: Path) -> None:
    folder = copy_json(tiny, tmp_path / "json")
    assert dry("--load-format", "dummy", model_path=folder).end["model"] == "ringlight-demo-tiny"
    with pytest.raises(InvalidCheckpoint, match="no such file"):
        dry(model_path=folder)


@pytest.mark.parametrize("part", ["transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"])
def test_a_dry_run_refuses_the_files_that_the_start_refuses(dry: Dry, checkpoint: Path, part: str) -> None:
    (checkpoint / part).unlink()
    (checkpoint / part).symlink_to(checkpoint / "unmounted")
    refusals = []
    for start in (dry, lambda: Engine(EngineConfig(model_path=str(checkpoint)))):
        with pytest.raises(InvalidCheckpoint) as caught:
            start()
        refusals.append(str(caught.value))
    assert f"{part} is a link to {checkpoint / 'unmounted'}, which is not there" in refusals[0]
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--nnodes", "2", "--dist-init-addr", "h:1", "--num-gpus", "2", "--num-replicas", "2"],
            "num-replicas above 1",
        ),
        (["--num-gpus", "7", "--ulysses-degree", "7"], "ulysses-degree 7 is more than"),
        (["--calibration", "nowhere.json"], "nowhere.json"),
        (["--store-url", "mysql://root@h/jobs"], "store_url names mysql"),
        (["--store-url", "sqlite://"], "store_url must name a file"),
        (["--otlp-endpoint", "collector"], "--otlp-endpoint 'collector'"),
        (["--image-host", "http://"], "http://"),
        (["--webhook-url", "http://h/x"], "webhooks need --webhook-secret-file"),
        (["--host", "203.0.113.9", "--no-auth"], "cannot listen on 203.0.113.9"),
        (["--host", "nowhere.invalid", "--no-auth"], "cannot listen on nowhere.invalid"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_dry_run_refuses_what_a_start_refuses_in_the_same_words(
    dry: Dry, checkpoint: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    """The start is run in this process too: it raises before anything is loaded."""
    said = []
    for run in (lambda: dry(*flags), lambda: start(checkpoint, tmp_path, *flags)):
        with pytest.raises(RinglightError) as caught:
            run()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert words in said[0]


def start(checkpoint: Path, folder: Path, *flags: str) -> None:
    """`ringlight serve`, in this process; what is wrong is raised."""
    arguments = ["serve", "--model-path", str(checkpoint), "--data-dir", str(folder / "kept"), *flags]
    try:
        command(arguments, standalone_mode=False)
    finally:
        shutil.rmtree(folder / "kept", ignore_errors=True)


def test_a_node_that_only_hosts_ranks_refuses_what_node_0_refuses(dry: Dry, checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--nnodes", "2", "--node-rank", "1", "--dist-init-addr", "h:1", "--num-gpus", "2", "--host", "0.0.0.0"]
    assert dry(*flags).settings["host"] == ("0.0.0.0", "flag"), "it listens nowhere"
    for run in (dry, lambda *flags: start(checkpoint, tmp_path, *flags)):
        with pytest.raises(InvalidSetting, match="num-replicas above 1"):
            run(*flags, "--num-replicas", "2")


def test_what_is_only_so_at_the_moment_is_told_and_not_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run beside the server that will be replaced."""
    folder = DataFolder.open(str(tmp_path / "other"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--model-path", checkpoint, "--port", port, "--data-dir", folder.path, "--dry-run"]
        assert not command(["serve", *map(str, arguments)], standalone_mode=False)
    folder.close()
    assert [line.partition("refused: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        f"data-dir {folder.path} is in use by another server; name another folder",
        f"cannot listen on 127.0.0.1 port {port}: Address already in use",
    ]


def test_a_package_that_workers_need_is_missed_by_a_dry_run(dry: Dry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # which is how Python notes that there is none
    with pytest.raises(InvalidInstallation, match="torch is not installed"):
        dry()


@pytest.mark.slow
def test_no_folder_for_temporary_files_is_known_at_once(checkpoint: Path) -> None:
    """Also by a dry run: nothing can be written anywhere."""
    done = subprocess.run(
        [RINGLIGHT, "serve", "--model-path", checkpoint, "--dry-run"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("ringlight: invalid_installation: there is no folder for temporary files")


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ringlight("serve", "--model-path", checkpoint, "--port", port, folder=checkpoint.parent)
    assert (done.code, done.out) == (3, "")
    said = f"ringlight: invalid_setting: cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert done.err.splitlines()[-1] == said and "Traceback" not in done.err
