"""Variants of requests: what a file and a flag may say, what is refused, and that work without any is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.bench.judged import can_judge
from ringlight.bench.runner import Benchmark, Target
from ringlight.bench.servers import Launch
from ringlight.bench.variants import read_flag, read_variant
from ringlight.bench.workload import Workload, read_workload
from ringlight.core.errors import InvalidSetting
from tests.bench.test_workload import REQUEST, USUAL, read

HALF = '[[variant]]\nname = "half"\nnum_inference_steps = 2\n'
NARROW = '[[variant]]\nname = "narrow"\n[variant.server]\ndtype = "bfloat16"\n'


def test_a_workload_without_variants_has_the_hash_that_it_had(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.sha256 == "46cd41ab614b0d88828a0ed90f889edd4a2c8a3e1f57dbb26610c88430c42878"
    assert "variants" not in found.content()


def test_variants_are_part_of_the_work_and_their_names_are_not(tmp_path: Path) -> None:
    hashes = {read(tmp_path, "", REQUEST + more).sha256 for more in ("", HALF, NARROW, HALF + NARROW)}
    assert len(hashes) == 4
    assert read(tmp_path, "", REQUEST + HALF.replace("half", "h")).sha256 in hashes


def test_fields_take_the_place_of_every_requests(tmp_path: Path) -> None:
    other = REQUEST.replace("a boat", "a ship").replace("= 3", "= 4")
    found = read(tmp_path, "", REQUEST + other + HALF + '[[variant]]\nsampler = "fastwan-3step"\nlora = "style:0.5"\n')
    half, few = map(found.varied, found.variants)
    assert [(kind.prompt, kind.num_inference_steps) for kind in half.kinds] == [("a boat", 2), ("a ship", 2)]
    assert half.variants == [] and half.round(1)[1].fields["prompt"] == found.round(1)[1].fields["prompt"]
    assert {(kind.num_inference_steps, kind.guidance_scale, kind.flow_shift) for kind in few.kinds} == {(3, 1.0, 8.0)}
    assert found.variants[1].name == "sampler=fastwan-3step,lora=style:0.5" == found.variants[1].said


def test_a_flag_says_what_a_table_says(tmp_path: Path) -> None:
    flag = read_variant(read_flag("num_inference_steps=2, name=half,guidance_scale=1,server.num_threads=2"), False)
    table = '[[variant]]\nname = "half"\nnum_inference_steps = 2\nguidance_scale = 1\nserver.num_threads = 2\n'
    assert read(tmp_path, "", REQUEST + table).variants == [flag]
    assert read(tmp_path).beside([flag]).sha256 == read(tmp_path, "", REQUEST + table).sha256


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            "[[variant]]\nnum_inference_step = 2\n",
            "variant 1: there is no num_inference_step .nearest: num_inference_s",
        ),
        (
            HALF + "[[variant]]\ndtype = 'bfloat16'\n",
            "variant 2: dtype is a setting of the server; say it below",
        ),
        ("[[variant]]\nprompt = 'a ship'\n", "variant 1: prompt stays that of each request"),
        ("[[variant]]\n[variant.server]\ndtyp = 'bfloat16'\n", "variant 1: server: there is no dtyp .nearest: dtype."),
        ("[[variant]]\n[variant.server]\ndtype = 'bf16'\n", "variant 1: Invalid enum value 'bf16' .* `.*dtype`"),
        ("[[variant]]\n[variant.server]\nattention = 'none'\n", "variant 1: .*none"),
        ("[[variant]]\nnum_inference_steps = '2'\n", "variant 1: Expected `int.*num_inference_steps"),
        ("[[variant]]\nsize = '128'\n", "size '128' is not WIDTHxHEIGHT"),
        ("[[variant]]\nseed = -2\n", "seed"),
        ("[[variant]]\nname = 'nothing'\n", "variant 1: says nothing that is other"),
        ("[[variant]]\nnum_inference_steps = 3\n", "num_inference_steps=3: differs in nothing"),
        (HALF + HALF, "2 variants are called half"),
        (HALF + HALF.replace('"half"', '"half`"'), "the name 'half`' is not of at most"),
        ("variant = 2\n", r"each below \[\[variant\]\]"),
        ("[[variant]]\nserver = 2\n", r"server is a table of settings, below \[variant.server\]"),
        ("[[variant]]\nlora = [2]\n", "variant 1: "),
    ],
)
def test_a_variant_that_is_wrong_says_what_is_wrong(tmp_path: Path, more: str, says: str) -> None:
    head, request = (more, REQUEST) if more.startswith("variant") else ("", REQUEST + more)
    with pytest.raises(InvalidSetting, match=says):
        read(tmp_path, head, request)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sampler", "'sampler' is not NAME=VALUE"),
        ("sigmas=1,0.5", "'0.5' is not NAME=VALUE; what has commas of its own is said in a workload"),
        ("fps=2,fps=3", "fps is said twice"),
        ("server.dtype=bfloat16,server.dtype=float32", "server.dtype is said twice"),
    ],
)
def test_a_flag_that_is_wrong_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        read_flag(text)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red ball rises over snow", True),
        ("A violet sphere, at midnight.", True),
        ("a red ball rises over snow (1)", True),
        ("a boat at night", False),
        ("a red ball over a snow leopard", False),
        ("a red ball rises", False),
        ("", False),
    ],
)
def test_the_judge_is_asked_of_prompts_in_its_own_words(prompt: str, expected: bool) -> None:
    assert can_judge(prompt) is expected


def benchmark(folder: Path, workload: Workload, layouts: list[str], target: Target) -> Benchmark:
    return Benchmark(workload, layouts, target, 2, folder, lambda line: None)


def test_those_of_one_server_have_their_turns_together_and_turns_are_reversed(tmp_path: Path) -> None:
    workload = read(tmp_path, "", REQUEST + HALF + NARROW)
    launch = Launch(model_path=tmp_path, flags=(), logs=tmp_path)
    own = Launch(model_path=tmp_path, flags=("--dtype", "bfloat16"), logs=tmp_path, variant="narrow")
    found = benchmark(tmp_path, workload, ["u1r1", "u1r2"], Target(launch=launch, own={"narrow": own}))
    turns = [[[each.name for each in group] for group in found.turns(number)] for number in (1, 2)]
    assert turns[0] == [["u1r1", "u1r1 half"], ["u1r1 narrow"], ["u1r2", "u1r2 half"], ["u1r2 narrow"]]
    assert turns[1] == [["u1r2 narrow"], ["u1r2 half", "u1r2"], ["u1r1 narrow"], ["u1r1 half", "u1r1"]]
    assert found.on_other_servers == {"u1r1 narrow", "u1r2 narrow"}
    columns = found.result("ringlight bench").columns
    assert [(column.beside, column.says) for column in columns[:3]] == [
        ("", ""),
        ("u1r1", "num_inference_steps=2"),
        ("u1r1", "server.dtype=bfloat16"),
    ]
    assert "--dtype bfloat16" in columns[2].command and columns[1].command == columns[0].command


def test_the_workload_of_films_can_be_judged() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "workloads" / "film_variants.toml"
    found = read_workload(path, USUAL)
    assert len(found.variants) == 5 and not found.said.fresh_prompts
    assert all(can_judge(kind.prompt) for kind in found.kinds)
