"""What `--lora` says, read from the right; which file is meant; what PEFT wrote of a file's scales."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ringlight.core.errors import InvalidCheckpoint, InvalidRequest
from ringlight.core.lora import AskedLora, Lora, lora_file, lora_name, parse_lora, wrong_end
from ringlight.core.peft_config import CONFIG_FILE, METADATA_KEY, PeftConfig, read_peft_config
from ringlight.core.weights import read_header


@pytest.mark.parametrize(
    ("text", "place", "strength", "target"),
    [
        ("style.safetensors", "style.safetensors", 1.0, None),
        ("style.safetensors:0.5", "style.safetensors", 0.5, None),
        ("style.safetensors:-1e-1:low", "style.safetensors", -0.1, "low"),
        ("style.safetensors:high", "style.safetensors", 1.0, "high"),
        ("anime/style:10:both", "anime/style", 10.0, "both"),
        ("C:\\loras\\style.safetensors", "C:\\loras\\style.safetensors", 1.0, None),
        ("a:b.safetensors:2", "a:b.safetensors", 2.0, None),
        ("a:1:b", "a:1:b", 1.0, None),
        ("2:0.25", "2", 0.25, None),
        ("x:strong:low", "x:strong", 1.0, "low"),
        ("my lora:1", "my lora", 1.0, None),
        ("my lora:1:1", "my lora:1", 1.0, None),
    ],
)
def test_what_is_said_is_read_from_the_right(text: str, place: str, strength: float, target: str | None) -> None:
    assert parse_lora(text) == AskedLora(place=place, strength=strength, target=target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no file; it is FILE[:STRENGTH[:TARGET]]"),
        ("high", "names no file"),
        ("a:0", "a strength of 0 changes nothing"),
        ("a:nan", "must lie between -10 and 10, not nan"),
        ("a:-11:low", "must lie between -10 and 10, not -11"),
    ],
)
def test_what_says_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_lora(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ink:abc", "'abc' is no strength, nor a target (both, high, low); such as ink:0.8"),
        ("ink:hihg", "'hihg' is no strength, nor a target"),
        ("ink:", "'' is no strength"),
        ("ink:strong:low", "'strong' is no strength, nor a target (both, high, low); such as ink:0.8"),
        ("ink:0.8:HIGH", "'HIGH' is no target (both, high, low); such as ink:0.8:high"),
        ("ink:0.8:0.5", "are said once"),
        ("in:k:abc", "'abc' is no strength, nor a target (both, high, low); such as in:k:0.8"),
        ("abc", None),
        ("ing:abc", None),
        ("ink:abc.safetensors", None),
        ("ink:abc/d", None),
    ],
)
def test_what_stands_behind_a_name_is_not_of_it(text: str, words: str | None) -> None:
    said = wrong_end(parse_lora(text).place, {"ink", "in:k"}.__contains__)
    assert said is None if words is None else words in (said or "")


def test_a_lora_is_told_as_it_is_asked_for() -> None:
    told = [str(Lora(name="a")), str(Lora(name="a", strength=0.5)), str(Lora(name="a", target="low"))]
    assert told == ["a", "a:0.5", "a:1:low"]
    for name in ("my lora:1", "x:high", "a:b", "2"):
        assert parse_lora(str(Lora(name=name))) == AskedLora(place=name)
    assert Lora(name="a").experts == Lora(name="a", target="both").experts == (0, 1)
    assert (Lora(name="a", target="high").experts, Lora(name="a", target="low").experts) == ((0,), (1,))


def test_the_file_that_is_meant(tmp_path: Path) -> None:
    for name in ("style.safetensors", "style.pt", "style.gguf"):
        (tmp_path / name).touch()
    folder = tmp_path / "v1.1"
    folder.mkdir()
    (folder / "adapter_model.safetensors").touch()
    assert lora_file(tmp_path / "style.safetensors") == tmp_path / "style.safetensors"
    assert lora_file(folder) == folder / "adapter_model.safetensors"
    assert (lora_name(lora_file(folder)), lora_name(tmp_path / "style.safetensors")) == ("v1.1", "style")
    for place, words in (
        (tmp_path / "style.pt", "is pickled, which can run code"),
        (tmp_path / "style.gguf", "is no safetensors file"),
        (tmp_path / "none.safetensors", "none.safetensors: no such file"),
        (tmp_path, "a folder without adapter_model.safetensors or pytorch_lora_weights.safetensors; name a file"),
    ):
        with pytest.raises(InvalidCheckpoint, match=words.replace(".", r"\.")):
            lora_file(place)


def written(folder: Path, metadata: object = None, beside: object = None, name: str = "a.safetensors") -> Path:
    said = None if metadata is None else {METADATA_KEY: json.dumps(metadata)}
    safetensors.torch.save_file({"x": torch.zeros(1)}, folder / name, said)
    if beside is not None:
        (folder / CONFIG_FILE).write_text(json.dumps(beside))
    return folder / name


def config_of(path: Path) -> PeftConfig | None:
    return read_peft_config(path, read_header(path))


def test_what_peft_wrote_is_found_in_the_file_or_beside_the_only_one(tmp_path: Path) -> None:
    assert config_of(written(tmp_path)) is None
    path = written(tmp_path, beside={"r": 8, "lora_alpha": 2, "peft_type": "LORA", "bias": "none", "r_pattern": None})
    assert config_of(path) == PeftConfig(r=8, lora_alpha=2, is_beside=True)
    path = written(tmp_path, {"transformer.r": 4, "transformer.lora_alpha": 0.5})
    assert config_of(path) == PeftConfig(r=4, lora_alpha=0.5)
    assert config_of(written(tmp_path, name="b.safetensors")) is None  # of which of both would it be?


def test_patterns_say_more_of_modules_whose_names_end_so() -> None:
    config = PeftConfig(
        r=8, lora_alpha=8, alpha_pattern={"attn1.to_q": 2, r"^blocks\.1\.ffn.*": 3}, rank_pattern={"to_k": 4}
    )
    assert [config.alpha(f"blocks.0.{name}") for name in ("attn1.to_q", "notattn1.to_q", "ffn.0")] == [2, 8, 8]
    assert (config.alpha("blocks.1.ffn.0"), config.rank("blocks.0.attn1.to_k"), config.rank("x")) == (3, 4, 8)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"r": "many"}, "not understood"),
        ({"alpha_pattern": {"(": 1}}, "not understood"),
        ([], "is no JSON object"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, said: object, words: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=words):
        config_of(written(tmp_path, said))
