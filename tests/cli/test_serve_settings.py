"""Flags, environment and file: which one wins, and what their values are taken for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from ringlight.cli.main import app
from ringlight.core.request import RequestLimits
from ringlight.core.settings import ServeSettings
from tests.cli.dry_runs import Dry, write
from tests.core.checkpoints import cached, name_revision

KEY = "alice:0123456789abcdef"


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


@pytest.mark.slow
def test_other_commands_do_not_wait_for_what_only_a_server_needs() -> None:
    program = "import sys, ringlight.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = set(done.stdout.split())
    assert "ringlight.cli.serve" in imported
    assert not imported & {"fastapi", "uvicorn", "sqlalchemy", "httpx", "structlog", "yaml", "ringlight.client"}
