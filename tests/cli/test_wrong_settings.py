"""Settings that are refused: in a file, the environment and flags, each named where it was written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ringlight.core.errors import InvalidSetting
from tests.cli.commands import RINGLIGHT, TIMEOUT_SECONDS, here
from tests.cli.dry_runs import Dry, write


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
        (["--max-slowdown", "5"], ["--max-slowdown 5", "at least 20, or 0"]),
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
