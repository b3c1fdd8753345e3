"""Flags, environment and file: which one wins, what is refused, and what a dry run says."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

from ringlight.cli.main import app, command
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidInstallation, InvalidSetting, RinglightError
from ringlight.core.request import RequestLimits
from ringlight.core.settings import ServeSettings
from ringlight.engine.engine import Engine
from ringlight.server.collection.folder import DataFolder
from tests.cli.commands import RINGLIGHT, TIMEOUT_SECONDS, here, ringlight
from tests.core.checkpoints import cached, copy_json, link_all, name_revision

KEY = "alice:0123456789abcdef"
PAGE = (
    "--model-type diffusion --model-path DIR "
    "--num-gpus {0} --sp-degree {0} --ulysses-degree 1 --ring-degree {0} --port 8898"
)


class Listed(NamedTuple):
    """What a dry run printed: settings as (value, source), and the lines at the end."""

    settings: dict[str, tuple[str, str]]
    end: dict[str, str]
    text: str


Dry = Callable[..., Listed]


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    """Links to another's files, which a dry run looks at and never loads."""
    return link_all(tiny, tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("RINGLIGHT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def dry(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dry:
    """Runs `ringlight serve --dry-run` with more flags."""

    def run(*flags: object, model_path: object = checkpoint) -> Listed:
        path = [] if model_path is None else ["--model-path", model_path]
        arguments = ["serve", *path, "--data-dir", tmp_path / "kept", *flags, "--dry-run"]
        assert not command([str(each) for each in arguments], standalone_mode=False)
        text = capsys.readouterr().out
        settings = {}
        for line in text.splitlines():
            if line.startswith("  "):
                name, rest = line.split(maxsplit=1)
                value, _, source = rest.rstrip().rpartition("  ")
                settings[name] = (value.strip(), source)
        end = dict(line.split(maxsplit=1) for line in text.rpartition("\n\n")[2].splitlines())
        assert not (tmp_path / "kept").exists()
        return Listed(settings, end, text)

    return run


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


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


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(
    dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "port: 1\nqueue-size: 1\nsave_seconds: 1\nmax-repeats: null\n")
    monkeypatch.setenv("RINGLIGHT_PORT", "2")
    monkeypatch.setenv("RINGLIGHT_QUEUE_SIZE", "2")
    monkeypatch.setenv("RINGLIGHT_DRAIN_TIMEOUT", "2")
    monkeypatch.setenv("RINGLIGHT_LOG_LEVEL", "")  # as if it were not set
    found = dry("--config", config, "--port", 3).settings
    assert found["port"] == ("3", "flag")
    assert found["queue-size"] == ("2", "RINGLIGHT_QUEUE_SIZE")
    assert found["drain-timeout"] == ("2", "RINGLIGHT_DRAIN_TIMEOUT")
    assert found["save-seconds"] == ("1", str(config))
    assert found["max-repeats"] == ("2", "default")
    assert found["log-level"] == ("info", "default")


def test_the_file_and_the_model_from_the_environment(
    dry: Dry, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "num-gpus: 2\ncfg-degree: 2\n")
    monkeypatch.setenv("RINGLIGHT_CONFIG", str(config))
    monkeypatch.setenv("RINGLIGHT_MODEL_PATH", str(checkpoint))
    found = dry(model_path=None)
    assert found.settings["model-path"] == (str(checkpoint), "RINGLIGHT_MODEL_PATH")
    assert found.end["layout"] == "c2u1r1: as asked, nothing was left to choose"


def test_every_kind_of_value(dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(
        tmp_path,
        "tf32: false\nno-auth: true\nwatchdog-timeout: 5\ndevice: cpu\nlog-format: json\nimage-host: [a.com, b.com]\n",
    )
    found = dry("--config", config).settings
    names = ("tf32", "no-auth", "watchdog-timeout", "device", "log-format", "image-host")
    assert [found[name][0] for name in names] == ["no", "yes", "5", "cpu", "json", "a.com, b.com"]
    for name, text in {"TF32": "true", "NO_AUTH": "0", "DEVICE": "cuda", "IMAGE_HOST": "c.com, d.com,"}.items():
        monkeypatch.setenv(f"RINGLIGHT_{name}", text)
    found = dry("--config", config, "--cors-origin", "https://e.com", "--cors-origin", "https://f.com").settings
    assert [found[name][0] for name in ("tf32", "no-auth", "device")] == ["yes", "no", "cuda"]
    assert found["image-host"] == ("c.com, d.com", "RINGLIGHT_IMAGE_HOST")
    assert found["cors-origin"] == ("https://e.com, https://f.com", "flag")


def test_a_text_that_looks_like_a_number_or_a_date_is_taken_as_it_is_written(dry: Dry, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "memory_budget: 10737418240\nqueue-size: &five 5\nserved-model-name: [*five, 007, 1.10, 2026-11-29]\n"
        "defaults: {negative-prompt: 12:30, fps: 8}\n",
    )
    found = dry("--config", config).settings
    assert found["memory-budget"] == ("10737418240", str(config))
    assert found["served-model-name"][0] == "5, 007, 1.10, 2026-11-29"
    assert [found[name][0] for name in ("queue-size", "negative_prompt", "fps")] == ["5", "12:30", "8"]


def test_limits_and_defaults_add_up(dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(
        tmp_path,
        "limits: {max-frames: 81, max_steps: 20}\ndefaults: {width: 64, height: 64, seed: 7, flow_shift: 3}\n",
    )
    monkeypatch.setenv("RINGLIGHT_MAX_STEPS", "30")
    monkeypatch.setenv("RINGLIGHT_DEFAULT", "height=96,negative_prompt=dark,num-frames=5")
    found = dry("--config", config, "--default", "width=128", "--default", "guidance_scale=1").settings
    assert found["max_frames"] == ("81", str(config))
    assert found["max_steps"] == ("30", "RINGLIGHT_MAX_STEPS")
    assert found["max_pixels"] == (str(RequestLimits().max_pixels), "default")
    assert found["width"] == ("128", "--default")
    assert found["guidance_scale"] == ("1", "--default")
    assert found["height"] == ("96", "RINGLIGHT_DEFAULT")
    assert found["num_frames"] == ("5", "RINGLIGHT_DEFAULT")
    assert found["flow_shift"] == ("3", str(config))
    assert found["num_inference_steps"] == ("8", "ringlight.json")
    assert found["fps"] == ("24", "model card")


def test_a_negative_prompt_keeps_its_commas(dry: Dry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLIGHT_DEFAULT", "negative_prompt=dark, blurry,fps=8")
    found = dry().settings
    assert (found["negative_prompt"][0], found["fps"][0]) == ("dark, blurry", "8")


def test_a_default_sampler_brings_its_steps_from_where_it_is_said(dry: Dry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLIGHT_DEFAULT", "sampler=lightx2v-4step,guidance_scale=2")
    found = dry("--num-gpus", 2).settings
    assert found["num_inference_steps"] == ("4", "RINGLIGHT_DEFAULT")
    assert (found["flow_shift"][0], found["guidance_scale"][0]) == ("5", "2")
    found = dry("--default", "sampler=fastwan-3step").settings
    assert found["num_inference_steps"] == ("3", "--default")
    assert (found["flow_shift"], found["guidance_scale"]) == (("8", "--default"), ("1", "--default"))
    found = dry("--default", "sigmas=1,0.75,0.5").settings
    assert (found["num_inference_steps"], found["flow_shift"]) == (("3", "--default"), ("1", "--default"))


def test_defaults_decide_the_layout(dry: Dry) -> None:
    assert dry("--num-gpus", 2, "--default", "sampler=lightx2v-4step").end["layout"].startswith("u2r1: ")
    assert dry("--num-gpus", 2).end["layout"].startswith("c2u1r1: guidance needs two branches")
    assert dry().end["weights"] == "in each rank"
    assert dry("--memory-budget", "400MiB").end["weights"] == "on the host, one copy for all ranks"
    assert dry("--num-gpus", 2, "--default", "guidance_scale=1").end["layout"].startswith("u2r1: ")


def test_a_model_may_have_several_names(dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dry().end["model"] == "ringlight-demo-tiny"
    assert dry("--served-model-name", "wan", "--served-model-name", "ORG/NAME").end["model"] == "wan, ORG/NAME"
    config = write(tmp_path, "served-model-name: [one, two]\n")
    assert dry("--config", config).end["model"] == "one, two"
    monkeypatch.setenv("RINGLIGHT_SERVED_MODEL_NAME", "three,four")
    assert dry("--config", config).settings["served-model-name"] == ("three, four", "RINGLIGHT_SERVED_MODEL_NAME")


def test_a_model_is_named_as_it_lies_in_the_hubs_cache(
    dry: Dry, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    name_revision(cached(tiny, tmp_path / "hub", "Wan-AI/Wan2.2", "b8fff7315c768468a5333511427288870b2e9635"), "main")
    for asked in ("Wan-AI/Wan2.2", "Wan-AI/Wan2.2@b8fff73", tmp_path / "hub" / "models--Wan-AI--Wan2.2"):
        found = dry(model_path=asked)
        assert (found.end["model"], found.settings["model-path"][0]) == ("Wan-AI/Wan2.2", str(asked))


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


def test_random_weights_need_no_files(dry: Dry, tiny: Path, tmp_path: Path) -> None:
    folder = copy_json(tiny, tmp_path / "json")
    assert dry("--load-format", "dummy", model_path=folder).end["model"] == "ringlight-demo-tiny"
    with pytest.raises(InvalidCheckpoint, match="no such file"):
        dry(model_path=folder)


def test_secrets_stay_secret(dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLIGHT_API_KEY", f"{KEY},fedcba9876543210")
    monkeypatch.setenv("RINGLIGHT_STORE_URL", "postgresql+psycopg://ringlight:hush@db:5432/jobs?password=hush")
    monkeypatch.setenv("RINGLIGHT_WEBHOOK_URL", "https://hooks.example.com/x?token=hush")
    (tmp_path / "secret").write_text("whsec_" + "A" * 43 + "=")
    found = dry("--host", "0.0.0.0", "--webhook-secret-file", tmp_path / "secret")
    assert found.settings["api-key"] == ("alice:***, ***", "RINGLIGHT_API_KEY")
    assert found.settings["store-url"][0] == "postgresql+psycopg://ringlight:***@db:5432/jobs?***"
    assert found.settings["webhook-url"][0] == "https://hooks.example.com/x?***"
    assert "hush" not in found.text and "0123456789abcdef" not in found.text and "fedcba" not in found.text


def test_every_setting_has_a_flag(dry: Dry) -> None:
    """All of them are listed, each by the name of its flag."""
    fields = set(ServeSettings.__struct_fields__) - {"limits", "defaults"}
    serve = typer.main.get_group(app).commands["serve"]
    flags = {option.opts[0].removeprefix("--") for option in serve.params}
    listed = dry().settings
    for field in fields:
        name = field.replace("_", "-")
        assert name in flags and name in listed
        assert listed[name][1] == ("flag" if name == "data-dir" else "default")
    assert flags - set(listed) == {"config", "dry-run", "default"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 8898", ["prot is not a setting", "did you mean port?"]),
        ("image-hosts: [a.com]", ["image-hosts", "did you mean image-host?"]),
        ("limit: {}", ["did you mean limits?"]),
        ("dry-run: true", ["dry-run is not a setting"]),
        ("default: [width=64]", ["did you mean defaults?"]),
        ("port: '8898'", ["port: must be a whole number, not '8898'"]),
        ("port: 88.5", ["port: "]),
        ("port: true", ["port: must be a whole number, not True"]),
        ("port: 70000", ["port: "]),
        ("host: true", ["host: must be text, not True"]),
        ("host: [a]", ["host: must not be a list"]),
        ("tf32: 'no'", ["tf32: must be true or false, not 'no'"]),
        ("save-seconds: a while", ["save-seconds: "]),
        ("save-seconds: -1", ["save-seconds: "]),
        ("device: tpu", ["device: ", "tpu"]),
        ("image-host: a.com", ["image-host: must be a list of texts"]),
        ("image-host: [true]", ["image-host: must be a list of texts"]),
        ("data-dir: {a: b}", ["data-dir: must be text"]),
        ("save-seconds: 1\nsave_seconds: 2", ["line 2: save_seconds stands there twice, first in line 1"]),
        ("port: 1\nhost: a\nport: 2\nhost: b", ["line 3: port stands", "line 4: host stands there twice"]),
        ("limits:\n  max_pixels: 3\n  max-pixels: 4", ["line 3: max-pixels stands there twice, first in line 2"]),
        ("defaults: {width: 64, width: 32}", ["line 1: width stands there twice"]),
        ("limits: {}\nlimits: {}", ["line 2: limits stands there twice"]),
        ("cors-origin: [{a: 1, a: 2}]", ["line 1: a stands there twice"]),
        ("limits: &loop\n  a: *loop\n  a: 1", ["line 3: a stands there twice"]),
        ("limits: {max_pixel: 3}", ["max_pixel", "did you mean max_pixels?"]),
        ("limits: {max_pixels: '3'}", ["max_pixels: ", "int"]),
        ("limits: 3", ["limits: must map names to values"]),
        ("defaults: {widht: 64}", ["widht", "did you mean width?"]),
        ("defaults: {width: 64.5}", ["width: "]),
        ("defaults: [width]", ["defaults: must map"]),
        ("[port]", ["must map names of settings to values"]),
        ("3", ["must map names of settings to values"]),
        ("1: 2", ["must map names of settings to values"]),
        ("port: [", ["not YAML"]),
        ("port: !!python/object/apply:os.getcwd []", ["not YAML"]),
        ("prot: 1\nhost: no", ["prot is not", "host: must be"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_name_and_the_key(
    dry: Dry, tmp_path: Path, text: str, words: list[str]
) -> None:
    config = write(tmp_path, text)
    with pytest.raises(InvalidSetting) as caught:
        dry("--config", config)
    assert str(config) in str(caught.value) and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("PORT", "tcp://10.0.0.1:8898", ["RINGLIGHT_PORT: "]),
        ("PORT", "70000", ["RINGLIGHT_PORT: "]),
        ("TF32", "perhaps", ["RINGLIGHT_TF32: "]),
        ("LOG_FORMAT", "xml", ["RINGLIGHT_LOG_FORMAT: ", "xml"]),
        ("MAX_PIXELS", "many", ["RINGLIGHT_MAX_PIXELS: "]),
        ("DEFAULT", "width", ["RINGLIGHT_DEFAULT: 'width' is not KEY=VALUE"]),
        ("DEFAULT", "widht=3", ["RINGLIGHT_DEFAULT: ", "did you mean width?"]),
        ("CONFIG", "/nowhere.yaml", ["/nowhere.yaml: No such file"]),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(
    dry: Dry, monkeypatch: pytest.MonkeyPatch, name: str, text: str, words: list[str]
) -> None:
    monkeypatch.setenv(f"RINGLIGHT_{name}", text)
    with pytest.raises(InvalidSetting) as caught:
        dry()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--default", "width"], ["--default: 'width' is not KEY=VALUE, such as num_frames=81"]),
        (["--default", "widht=64"], ["--default: widht", "did you mean width?"]),
        (["--default", "fps=fast"], ["--default: fps"]),
        (["--default", "width=65"], ["defaults: width: 65 is not a positive multiple of 32 (nearest: 64)"]),
        (["--default", "sampler=eular"], ["defaults: sampler: there is none of this name", "nearest: euler"]),
        (
            ["--default", "sampler=lightx2v-4step", "--default", "num_inference_steps=8"],
            ["defaults: num_inference_steps: 8 contradicts sampler lightx2v-4step", "nearest: 4"],
        ),
        (["--default", "sigmas=1,half"], ["--default: sigmas"]),
        (["--default", "num_frames=6"], ["defaults: num_frames: 6 is not 4k+1"]),
        (["--host", "0.0.0.0"], ["--host 0.0.0.0", "--api-key-file", "--no-auth"]),
        (["--api-key-file", "/nowhere/keys"], ["/nowhere/keys"]),
        (["--watchdog-timeout", "0"], ["watchdog-timeout"]),
        (["--data-dir", "/dev/null/x"], ["data-dir /dev/null/x", "/dev/null is not a folder"]),
        (["--data-dir", "x" * 300], ["data-dir ", "xxx: File name too long"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_flags_that_cannot_be(dry: Dry, flags: list[str], words: list[str]) -> None:
    with pytest.raises(InvalidSetting) as caught:
        dry(*flags)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_limit_below_the_checkpoints_own_default_is_allowed(dry: Dry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients then have to say what they want; what the operator gave has to fit."""
    monkeypatch.setenv("RINGLIGHT_MAX_STEPS", "4")
    assert dry().settings["num_inference_steps"] == ("8", "ringlight.json")
    with pytest.raises(InvalidSetting, match="num_inference_steps: 5 is not between 1 and 4"):
        dry("--default", "num_inference_steps=5")


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


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--no-such-flag"], 2, "ringlight: usage: "),
        (["--num-gpus", "3", "--cfg-degree", "2"], 3, "ringlight: invalid_layout: "),
        (["--host", "0.0.0.0"], 3, "ringlight: invalid_setting: --host 0.0.0.0"),
        (["--port", "many"], 2, "ringlight: usage: "),
        (["--data-dir", "/proc/x"], 3, "ringlight: invalid_setting: data-dir /proc/x: "),
        (["--webhook-host", "a.com"], 3, "ringlight: invalid_setting: webhooks need --webhook-secret-file"),
        (["--config", "nowhere.yaml"], 3, "ringlight: invalid_setting: nowhere.yaml: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(checkpoint: Path, flags: list[str], code: int, said: str) -> None:
    """Without --dry-run: nothing has been started, and no folder made."""
    done = here("serve", "--model-path", checkpoint, *flags, folder=checkpoint.parent)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(said) and done.err.count("\n") == 1
    assert not (checkpoint.parent / "ringlight-data").exists()


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


@pytest.mark.slow
def test_a_variable_that_nothing_reads_is_told_of(checkpoint: Path) -> None:
    done = subprocess.run(
        [RINGLIGHT, "serve", "--model-path", checkpoint, "--dry-run"],
        env=os.environ | {"RINGLIGHT_PROT": "3", "RINGLIGHT_URL": "http://localhost", "RINGLIGHT_DEFAULT": "fps=8"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == "ringlight: RINGLIGHT_PROT is not a setting; did you mean RINGLIGHT_PORT?\n"


@pytest.mark.slow
def test_other_commands_do_not_wait_for_what_only_a_server_needs() -> None:
    program = "import sys, ringlight.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = set(done.stdout.split())
    assert "ringlight.cli.serve" in imported
    assert not imported & {"fastapi", "uvicorn", "sqlalchemy", "httpx", "structlog", "yaml", "ringlight.client"}
