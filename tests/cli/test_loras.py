"""`--lora` and `--lora-dir` of every command: what is found in files is told, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlight.families.model import ModelSpec
from tests.cli.commands import Done, here
from tests.loras import write_lora

Write = Callable[..., Path]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A folder with a LoRA for the tiny checkpoint, styles/ink, and one that is for none."""
    for name in ("styles/ink", "other"):
        change = dict if name == "styles/ink" else lambda tensors: {f"x.{key}": each for key, each in tensors.items()}
        modules = "blocks.0.attn1.to_q".__eq__
        write_lora(
            tmp_path / f"loras/{name}.safetensors", tiny / "transformer", alpha=2, modules=modules, change=change
        )
    return tmp_path / "loras"


def serve(tiny: Path, tmp_path: Path, *flags: object) -> Done:
    return here("serve", "--model-path", tiny, "--data-dir", tmp_path / "kept", "--port", 0, *flags, "--dry-run")


def generate(tiny: Path, tmp_path: Path, *flags: object) -> Done:
    return here("generate", "--model-path", tiny, "--prompt", "p", "--output", tmp_path / "film.mp4", *flags)


def test_a_dry_run_tells_what_is_in_them(tiny: Path, folder: Path, tmp_path: Path) -> None:
    done = serve(tiny, tmp_path, "--lora", f"{folder}/styles/ink.safetensors:-0.5", "--lora-dir", folder)
    assert done.code == 0, done.err
    lines = [line.removeprefix("lora    ") for line in done.out.splitlines() if line.startswith("lora    ")]
    always, other = lines
    assert always.startswith("styles/ink:-0.5, in every video: 1 of ") and "modules, alpha 2/4" in always
    assert (
        other.startswith("other: cannot be used: other.safetensors") and "not of this model: x.diffusion_model" in other
    )
    assert str(folder) not in other


def test_environment_and_file_name_several(
    tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGLIGHT_LORA_DIR", str(folder))
    monkeypatch.setenv("RINGLIGHT_LORA", "styles/ink:0.5,styles/ink.safetensors")
    assert "styles/ink is there twice" in serve(tiny, tmp_path).err
    monkeypatch.delenv("RINGLIGHT_LORA")
    settings = tmp_path / "settings.yaml"
    settings.write_text("lora: [styles/ink:0.5]\n")
    assert "styles/ink:0.5, in every video" in serve(tiny, tmp_path, "--config", settings).out
    settings.write_text("lora: [styles/ink:much]\n")
    assert "--lora styles/ink:much: 'much' is no strength" in serve(tiny, tmp_path, "--config", settings).err
    settings.write_text("defaults: {lora: [{name: styles/ink, scale: 0.5}]}\n")
    listed = serve(tiny, tmp_path, "--config", settings)
    assert listed.code == 0, listed.err
    (line,) = [line for line in listed.out.splitlines() if line.split()[:1] == ["lora"] and "settings.yaml" in line]
    assert "styles/ink:0.5" in line
    assert "styles/ink" in serve(tiny, tmp_path, "--default", "lora=styles/ink:0.5").out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lora", "nowhere.safetensors"], ["--lora nowhere.safetensors: no such file"]),
        (["--lora", "styles/inc"], ["nearest: styles/ink"]),
        (["--lora", "styles/ink.safetensors:abc"], ["--lora styles/ink.safetensors:abc: 'abc' is no strength"]),
        (["--lora", "styles/ink:11"], ["--lora", "between -10 and 10"]),
        (["--lora", "styles/ink:1:low"], ["has one transformer"]),
        (["--lora", "other"], ["other.safetensors: does not fit", "not of this model: x.diffusion_model"]),
        (["--lora-dir", "nowhere"], ["--lora-dir nowhere: no such folder"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [serve, generate])
def test_what_is_refused_ends_with_3_before_anything_starts(
    command: Callable[..., Done], tiny: Path, folder: Path, tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    done = command(tiny, tmp_path, "--lora-dir", folder, *flags)
    assert done.code == 3, done
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("default", "words"),
    [
        ("lora=styles/inc", ["defaults: lora: there is no LoRA styles/inc (nearest: styles/ink)"]),
        ("lora=styles/ink:much", ["defaults: lora: styles/ink:much: 'much' is no strength, nor a target"]),
        ("lora=styles/ink:0", ["--default: lora: ", "changes nothing"]),
    ],
)
def test_a_default_that_cannot_be_had_is_the_operators_mistake(
    tiny: Path, folder: Path, tmp_path: Path, default: str, words: list[str]
) -> None:
    done = serve(tiny, tmp_path, "--lora-dir", folder, "--default", default)
    assert done.code == 3 and all(word in done.err for word in words), done.err


def test_a_plan_has_them(tiny: Path, folder: Path) -> None:
    flags = ("--model-path", tiny, "--gpu", "rtx4090", "--size", "64x64", "--num-frames", 5)
    with_one = here("plan", *flags, "--lora-dir", folder, "--lora", "styles/ink:0.5")
    assert with_one.code == 0 and "LoRA styles/ink:0.5;" in with_one.out
    assert "LoRA" not in here("plan", *flags).out
    assert here("plan", *flags, "--lora", "nowhere").code == 3


@pytest.mark.slow
def test_models_tell_which_of_them_fit(folder: Path, tiny: Path, spec: ModelSpec) -> None:
    flags = ("models", "--gpu", "rtx4090", "--lora-dir", folder)
    own, *published = json.loads(here(*flags, "--model-path", tiny, "--json").out)
    assert (own["name"], own["video"]) == (spec.name, "256x160x17") and own["loras"].keys() == {"styles/ink"}
    assert not any(model["loras"] for model in published)
    assert f"modules, alpha 2/4; fits {spec.name}" in here(*flags, "--model-path", tiny).out
    assert here(*flags, "--model-path", folder / "nowhere").code == 3
    lines = here(*flags).out.splitlines()
    assert "- LoRA other: fits none of them" in lines and "- LoRA styles/ink: fits none of them" in lines
    assert all(not model["loras"] for model in json.loads(here(*flags, "--json").out))
    assert "LoRA" not in here("models", "--gpu", "rtx4090").out


def test_a_benchmark_refuses_names_that_its_servers_do_not_have(tiny: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "work.toml"
    fields = 'prompt = "p"\nsize = "64x64"\nnum_frames = 5\nnum_inference_steps = 1\nguidance_scale = 1\n'
    path.write_text(f'[[request]]\n{fields}lora = "styles/inc"\n')
    flags = ("--model-path", tiny, "--layouts", "u1r1", "--workload", path, "--output", tmp_path / "found")
    done = here("bench", *flags, "--lora-dir", folder)
    assert done.code == 3 and "request 1: lora: there is no LoRA styles/inc (nearest: styles/ink)" in done.err
