"""What people write for LoRAs means the same however it is written, and is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight.bench.workload import Usual, read_workload
from ringlight.core.asked_loras import MOST_LORAS, read_loras
from ringlight.core.config import read_defaults
from ringlight.core.errors import InvalidCheckpoint, InvalidRequest
from ringlight.core.lora import Lora
from ringlight.core.report import workload_hash
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.families.model import ModelSpec
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B

INK, SPEED = Lora(name="styles/ink", strength=0.8), Lora(name="speed", target="high")
BOTH = (INK, SPEED)
USUAL = Usual.of_checkpoint(RequestDefaults(), WAN22_TI2V_5B)


@pytest.mark.parametrize(
    "said",
    [
        ["styles/ink:0.8", "speed:1:high"],
        [{"name": "styles/ink", "strength": 0.8}, {"name": "speed", "target": "high"}],
        [{"name": "styles/ink", "scale": "0.8"}, {"name": "speed", "lora_scale": 1, "target": "high", "sha256": None}],
        [{"name": "styles/ink", "strength": 0.8, "num_bytes": 7}, SPEED],
        BOTH,
    ],
    ids=str,
)
def test_all_ways_to_say_it_are_one(said: Any) -> None:
    assert read_loras(said) == BOTH


def test_one_is_a_list_of_one_and_nothing_is_none() -> None:
    for said in ("styles/ink:0.8", INK, {"name": "styles/ink", "strength": 0.8}):
        assert read_loras(said) == (INK,)
    assert [read_loras(said) for said in (None, "", " ", [], ())] == [()] * 5


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ink:20", ["between -10 and 10"]),
        ("ink:0", ["changes nothing"]),
        (7, ["7 is not NAME[:STRENGTH[:TARGET]], nor an object with a name"]),
        ([["ink"]], ["is not NAME"]),
        ({"strength": 1}, ["has a name"]),
        ({"name": 4}, ["has a name"]),
        ({"name": "ink", "strength": "much"}, ["lora: ink: strength 'much' is no number, such as 0.8"]),
        ({"name": "ink", "scale": [1]}, ["lora: ink: strength [1] is no number, such as 0.8"]),
        ({"name": "ink", "sha256": 7}, ["lora: ink: sha256 7 is no text"]),
        ({"name": "ink", "strength": 1, "scale": 2}, ["scale: the strength stands there twice"]),
        ({"name": "ink", "path": "/x"}, ["path: no request names a path", "GET /v1/models"]),
        ({"lora_path": "/x"}, ["no request names a path"]),
        ({"name": "ink", "wieght": 1}, ["'wieght' is not one of name, strength, target, sha256"]),
        ({"name": "ink", "strenght": 1}, ["nearest: strength"]),
        ({"name": "ink", "target": "transformer_2"}, ["is not one of both, high, low", "nearest: low"]),
        ({"name": "ink", "target": ["high"]}, ["is not one of both, high, low"]),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(said: Any, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_loras(said)
    (problem,) = caught.value.problems
    assert problem.field == "lora"
    for word in words:
        assert word in str(problem)


def test_a_request_has_them_and_names_what_is_wrong(spec: ModelSpec) -> None:
    def request(*loras: Lora) -> list[str]:
        try:
            RequestDefaults().complete("a boat", spec, lora=loras).check(spec, RequestLimits())
        except InvalidRequest as error:
            return [str(problem) for problem in error.problems]
        return []

    assert request(*BOTH) == []
    wrong = request(Lora(name="a", strength=-11.0), Lora(name="b", strength=float("nan")))
    assert len(wrong) == 2 and all("between -10 and 10" in said for said in wrong)
    assert f"the limit is {MOST_LORAS}" in request(*[Lora(name=f"{n}") for n in range(MOST_LORAS + 1)])[0]


def test_what_is_given_stands_in_the_place_of_a_default(spec: ModelSpec) -> None:
    defaults = RequestDefaults(lora=(INK,))
    assert defaults.complete("a boat", spec).lora == (INK,)
    assert defaults.complete("a boat", spec, lora=None).lora == (INK,)
    assert defaults.complete("a boat", spec, lora="speed:1:high").lora == (SPEED,)
    assert defaults.complete("a boat", spec, lora=[]).lora == ()


def test_hashes_know_the_file_and_not_its_name_and_without_any_are_as_they_were(spec: ModelSpec) -> None:
    whole = msgspec.structs.replace(INK, target="both", sha256="ab" * 32, num_bytes=9)

    def hash_of(*loras: Lora) -> str:
        return workload_hash(RequestDefaults(seed=1).complete("a boat", spec, lora=loras).workload())

    assert "lora" not in RequestDefaults(seed=1).complete("a boat", spec).workload()
    others = [{"strength": 0.7}, {"target": "low"}, {"sha256": "cd" * 32}]
    hashes = [hash_of(msgspec.structs.replace(whole, **change)) for change in others]
    assert len({hash_of(), hash_of(whole), *hashes}) == 5
    assert hash_of(msgspec.structs.replace(whole, name="renamed")) == hash_of(whole)
    assert hash_of(whole, SPEED) != hash_of(SPEED, whole)  # added up in this order


def test_a_checkpoint_and_a_workload_may_name_them(tmp_path: Path) -> None:
    (tmp_path / "ringlight.json").write_text('{"defaults": {"lora": "styles/ink:0.8", "num_frames": 5}}')
    assert read_defaults(tmp_path).lora == (INK,)
    (tmp_path / "ringlight.json").write_text('{"defaults": {"lora": {"name": "ink", "strenght": 1}}}')
    with pytest.raises(InvalidCheckpoint, match=r"ringlight\.json: lora: .*nearest: strength"):
        read_defaults(tmp_path)
    path = tmp_path / "work.toml"
    fields = 'prompt = "p"\nsize = "64x64"\nnum_frames = 5\nnum_inference_steps = 3\nguidance_scale = 5\n'
    path.write_text(f"[[request]]\n{fields}lora = ['styles/ink:0.8', {{name = 'speed', target = 'high'}}]\n")
    workload = read_workload(path, USUAL)
    assert workload.round(1)[0].fields["lora"] == workload.video_request(0, WAN22_TI2V_5B).lora == BOTH
    assert workload.kinds[0].title.endswith("LoRA styles/ink:0.8, speed:1:high")
    path.write_text(f"[[request]]\n{fields}")
    without = read_workload(path, USUAL)
    assert "lora" not in without.content()["requests"][0] and without.sha256 != workload.sha256
