"""Which LoRAs may be named: those of the operator's files and folders, as they lie there now, and no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ringlight.core.asked_loras import read_loras
from ringlight.core.errors import InvalidCheckpoint, InvalidRequest, InvalidSetting
from ringlight.core.lora import Lora
from ringlight.families import lora_library
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_lora
from tests.loras import write_lora


class Settings(NamedTuple):
    """As of an operator."""

    lora: Sequence[str] = ()
    lora_dir: Sequence[str] = ()


@pytest.fixture(scope="module")
def written(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA's file, to be copied."""
    path = tmp_path_factory.mktemp("loras") / "lora.safetensors"
    return write_lora(path, tiny / "transformer", alpha=1, modules=lambda name: name.startswith("blocks.0.attn1")).path


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A folder of LoRAs: style, anime/style, anime/wan_high_noise, and one that PEFT wrote."""
    folder = tmp_path / "loras"
    for name in ("style", "anime/style", "anime/wan_high_noise", "peft/adapter_model", ".cache/hidden"):
        copy(written, folder / f"{name}.safetensors")
    (folder / "readme.md").touch()
    return folder


@pytest.fixture
def experts(spec: ModelSpec) -> ModelSpec:
    """The same model with two experts."""
    return msgspec.structs.replace(spec, boundary_ratio=0.9)


def copy(file: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(file, place))


def problems(library: LoraLibrary, *asked: Lora) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        library.resolve(asked)
    assert {problem.field for problem in caught.value.problems} == {"lora"}
    return [str(problem).removeprefix("lora: ") for problem in caught.value.problems]


def refusal(settings: Settings, spec: ModelSpec) -> str:
    with pytest.raises(InvalidSetting) as caught:
        LoraLibrary(settings, spec)
    return str(caught.value)


def test_names_are_paths_below_the_folder(folder: Path, spec: ModelSpec) -> None:
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), spec)
    assert library.names() == ["anime/style", "anime/wan_high_noise", "peft", "style"]
    assert library.always == library.resolve([]) == ()
    asked = [Lora(name="peft", strength=0.5), Lora(name="anime/style", strength=-2)]
    resolved = library.resolve(asked)
    assert [(lora.name, lora.strength, lora.target) for lora in resolved] == [
        ("peft", 0.5, "both"),
        ("anime/style", -2, "both"),
    ]
    file = library.file(resolved[1])
    assert file.path == folder / "anime" / "style.safetensors"
    assert {lora.sha256 for lora in resolved} == {file.sha256} and resolved[0].num_bytes == file.num_bytes > 0


def test_files_come_and_go_while_the_server_runs(folder: Path, written: Path, tiny: Path, spec: ModelSpec) -> None:
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), spec)
    copy(written, folder / "new.safetensors")
    assert "new" in library.names()
    (before,) = library.resolve([Lora(name="new")])
    os.utime(write_lora(folder / "new.safetensors", tiny / "transformer", rank=2, seed=1).path, ns=(1, 1))
    (after,) = library.resolve([Lora(name="new")])
    assert after.sha256 != before.sha256
    with pytest.raises(InvalidCheckpoint, match="is another file than when the video was asked for"):
        library.file(before)
    (folder / "new.safetensors").unlink()
    assert "new" not in library.names()
    with pytest.raises(InvalidCheckpoint, match="no LoRA new here: it was taken away"):
        library.file(after)


def test_a_file_is_read_again_only_when_it_changed(folder: Path, spec: ModelSpec) -> None:
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), spec)
    (lora,) = library.resolve([Lora(name="style")])
    assert library.file(lora) is library.file(lora)


def test_what_is_offered_and_cannot_be_used_says_why(
    folder: Path, tiny: Path, written: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their headers, which are read once; the others are offered as if it were not there, and no file is hashed."""
    alien = copy(written, folder / "alien.safetensors")
    write_lora(alien, tiny / "transformer", change=lambda tensors: {f"x.{key}": each for key, each in tensors.items()})
    (folder / "half.safetensors").write_bytes(written.read_bytes()[:-1])
    read: list[str] = []
    monkeypatch.setattr(lora_library, "hashed", None)
    monkeypatch.setattr(lora_library, "read_lora", lambda path, spec: read.append(path.name) or read_lora(path, spec))
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), spec)
    offers = {offer.lora.name: offer for offer in library.offered()}
    assert [*offers] == library.names() and library.offered() == [*offers.values()]
    assert len(read) == len(offers), "once for each"
    for name, words in (("alien", "not of this model: x.diffusion_model"), ("half", "where its header tells of")):
        offer = offers.pop(name)
        assert offer.file is None and words in (offer.problem or "") and str(folder) not in (offer.problem or "")
    assert all(offer.file is not None and offer.problem is None for offer in offers.values())
    copy(written, folder / "half.safetensors")
    assert next(offer for offer in library.offered() if offer.lora.name == "half").problem is None


def test_nothing_out_of_the_folder_can_be_named(folder: Path, written: Path, tmp_path: Path, spec: ModelSpec) -> None:
    outside = copy(written, tmp_path / "outside" / "secret.safetensors")
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    (folder / "broken.safetensors").symlink_to(tmp_path / "none.safetensors")
    (folder / "inside.safetensors").symlink_to(folder / "style.safetensors")
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), spec)
    assert library.names() == ["anime/style", "anime/wan_high_noise", "inside", "peft", "style"]
    for name in (
        "link",
        "linked/secret",
        "../outside/secret",
        "anime/../style",
        str(outside),
        "style.safetensors",
        ".cache/hidden",
        "readme.md",
        "",
    ):
        (said,) = problems(library, Lora(name=name))
        assert said.startswith("there is no LoRA") and str(tmp_path) not in said.removeprefix(
            "there is no LoRA " + name
        )


def test_all_problems_of_a_request_are_said_without_places(
    folder: Path, tiny: Path, written: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    always = copy(written, tmp_path / "always.safetensors")
    (folder / "broken.safetensors").write_bytes(b"half")
    library = LoraLibrary(Settings([f"{always}:0.5"], [str(folder)]), spec)
    asked = [
        Lora(name="stile"),
        Lora(name="anime/style", strength=11),
        Lora(name="style"),
        Lora(name="style", strength=2),
        Lora(name="always"),
        Lora(name="peft", target="low"),
        Lora(name="broken"),
        Lora(name="anime/wan_high_noise", strength=0),
    ]
    said = problems(library, *asked)
    assert said == [
        "there is no LoRA stile (nearest: style)",
        "anime/style: the strength must lie between -10 and 10, not 11",
        "style is asked for twice",
        "always is always on here; leave it out",
        f"peft: target low is of models with two experts, and {spec.name} has one transformer",
        said[5],
        "anime/wan_high_noise: a strength of 0 changes nothing; leave the LoRA out",
    ]
    assert said[5].startswith("broken.safetensors: not a readable safetensors file")


def test_a_name_with_a_colon_needs_its_strength_where_a_number_is_behind_it(
    written: Path, tmp_path: Path, spec: ModelSpec
) -> None:
    for name in ("my lora:1", "ink:2024"):
        copy(written, tmp_path / f"{name}.safetensors")
    library = LoraLibrary(Settings(lora_dir=[str(tmp_path)]), spec)
    asked = read_loras(["my lora:1:0.5", {"name": "ink:2024"}])
    assert [str(lora) for lora in library.resolve(asked)] == ["my lora:1:0.5", "ink:2024:1"]
    assert problems(library, *read_loras("my lora:1")) == ["there is no LoRA my lora (nearest: my lora:1:1)"]
    assert problems(library, *read_loras("my lora:1:strong")) == [
        "my lora:1:strong: 'strong' is no strength, nor a target (both, high, low); such as my lora:1:0.8"
    ]
    assert "(nearest: my lora:1:1)" in refusal(Settings(["my lora:1"], [str(tmp_path)]), spec)
    (lora,) = LoraLibrary(Settings(["my lora:1:-2"], [str(tmp_path)]), spec).always
    assert (lora.name, lora.strength) == ("my lora:1", -2)


def test_a_server_without_loras_says_so(spec: ModelSpec) -> None:
    assert problems(LoraLibrary(Settings(), spec), Lora(name="style")) == [
        "there is no LoRA style; this server offers none (--lora-dir)"
    ]


def test_what_is_always_on_comes_first(folder: Path, written: Path, spec: ModelSpec, tmp_path: Path) -> None:
    file = copy(written, tmp_path / "elsewhere" / "lightning.safetensors")
    within = folder / "anime" / "style.safetensors"  # which has its folder's name for it
    library = LoraLibrary(Settings([f"{file}:0.5", str(within), "peft:2"], [str(folder)]), spec)
    assert [str(lora) for lora in library.always] == ["lightning:0.5", "anime/style", "peft:2"]
    assert library.names() == ["anime/wan_high_noise", "style"]
    assert [lora.name for lora in library.resolve([Lora(name="style")])] == [
        "lightning",
        "anime/style",
        "peft",
        "style",
    ]
    assert library.file(library.always[0]).path == file


def test_a_file_says_by_its_name_which_expert_it_is_for(
    folder: Path, written: Path, experts: ModelSpec, spec: ModelSpec
) -> None:
    copy(written, folder / "low_noise" / "lora.safetensors")
    settings = Settings([str(folder / "anime" / "wan_high_noise.safetensors")], [str(folder)])
    asked = [Lora(name="low_noise/lora"), Lora(name="style"), Lora(name="peft", target="low")]
    targets = [lora.target for lora in LoraLibrary(settings, experts).resolve(asked)]
    assert targets == ["high", "low", "both", "low"]
    assert [lora.target for lora in LoraLibrary(settings, spec).resolve(asked[:2])] == ["both"] * 3
    assert LoraLibrary(Settings([f"{settings.lora[0]}:1:low"]), experts).always[0].target == "low"


def test_each_expert_takes_a_lora_once(folder: Path, experts: ModelSpec) -> None:
    library = LoraLibrary(Settings(lora_dir=[str(folder)]), experts)
    high, low = Lora(name="style", target="high"), Lora(name="style", strength=0.5, target="low")
    assert len(library.resolve([high, low])) == 2
    assert problems(library, high, low, Lora(name="style")) == ["style is asked for twice"]
    both = [f"{folder}/style.safetensors:1:high", f"{folder}/style.safetensors:0.5:low"]
    assert [lora.experts for lora in LoraLibrary(Settings(both), experts).always] == [(0,), (1,)]
    assert "style is there twice" in refusal(Settings([*both, both[0]]), experts)


def test_two_files_of_one_name_are_refused_with_both(
    folder: Path, written: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    other = copy(written, tmp_path / "others" / "style.safetensors")
    said = refusal(Settings(lora_dir=[str(folder), str(other.parent)]), spec)
    assert said == f"two LoRAs are called style: {folder}/style.safetensors and {other}; rename one of them"
    assert "two LoRAs are called style" in refusal(Settings([str(other)], [str(folder)]), spec)
    assert "two LoRAs are called style" in refusal(Settings([str(other), str(folder / "style.safetensors")]), spec)
    assert LoraLibrary(Settings(lora_dir=[str(folder), str(folder)]), spec).names()
    library = LoraLibrary(Settings(lora_dir=[str(folder), str(tmp_path)]), spec)
    assert problems(library, Lora(name="others/stile"))[0].endswith("(nearest: others/style)")
    copy(written, tmp_path / "style.safetensors")
    twice = "two files are called style; the operator has to rename one of them"
    assert problems(library, Lora(name="style")) == [twice]
    assert [offer.problem for offer in library.offered() if offer.lora.name == "style"] == [twice]


@pytest.mark.parametrize(
    ("lora", "lora_dir", "words"),
    [
        ("stile", "{folder}", "--lora stile: no such file, nor a LoRA of a --lora-dir (nearest: style); it is FILE[:S"),
        ("none.safetensors:1", "", "--lora none.safetensors: no such file"),
        ("{folder}/style.safetensors:hihg", "", "style.safetensors:hihg: 'hihg' is no strength, nor a target"),
        ("none.safetensors:abc", "", "--lora none.safetensors:abc: 'abc' is no strength"),
        ("{folder}/peft:abc:low", "", "'abc' is no strength, nor a target (both, high, low); such as"),
        ("style.safetensors:0.5:HIGH", "{folder}", "'HIGH' is no target"),
        ("of:style", "{folder}", "--lora of:style: no such file, nor a LoRA of a --lora-dir (nearest: style)"),
        ("{folder}/style.safetensors:nan", "", "the strength must lie between"),
        ("{folder}/style.safetensors:1:high", "", "target high is of models with two experts"),
        ("", "{folder}/none", "none: no such folder"),
        ("", "{folder}/readme.md", "readme.md: no such folder"),
    ],
)
def test_settings_are_refused_with_the_remedy(
    folder: Path, spec: ModelSpec, lora: str, lora_dir: str, words: str
) -> None:
    loras = [lora.format(folder=folder)] if lora else []
    folders = [lora_dir.format(folder=folder)] if lora_dir else []
    assert words in refusal(Settings(loras, folders), spec)


def test_a_file_that_does_not_fit_is_refused_at_start(folder: Path, spec: ModelSpec) -> None:
    (folder / "style.safetensors").write_bytes(b"half")
    with pytest.raises(InvalidCheckpoint, match="not a readable safetensors file"):
        LoraLibrary(Settings([str(folder / "style.safetensors")]), spec)


def test_the_hubs_cache_may_hold_what_is_named(written: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """Its files are links to blobs without an ending."""
    blob = copy(written, tmp_path / "blobs" / "0123")
    snapshot = tmp_path / "snapshots" / "lightning.safetensors"
    snapshot.parent.mkdir()
    snapshot.symlink_to(blob)
    library = LoraLibrary(Settings([str(snapshot)]), spec)
    assert library.file(library.always[0]).path == snapshot
