"""Workloads: what a file may say, when requests are sent, and what the hash stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight.bench.workload import Usual, Workload, read_workload
from ringlight.core.errors import InvalidSetting
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.families.table import known_model, model_defaults
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from ringlight.wire.model import ModelCard

USUAL = Usual.of_checkpoint(RequestDefaults(), WAN22_TI2V_5B)
WORKLOADS = Path(__file__).parents[2] / "benchmarks" / "workloads"
REQUEST = """
[[request]]
prompt = "a boat"
negative_prompt = "blurry"
size = "128x96"
num_frames = 5
num_inference_steps = 3
guidance_scale = 5
"""


def read(folder: Path, head: str = "", request: str = REQUEST, image: Path | None = None) -> Workload:
    path = folder / "mine.toml"
    path.write_text(head + request)
    return read_workload(path, USUAL, image)


def test_the_stand_in_for_the_page_is_what_we_say(photograph: Path) -> None:
    found = read_workload(WORKLOADS / "seed_page.toml", USUAL, photograph)
    (kind,) = found.kinds
    assert kind.title == "I2V, 1280x704, 25 frames, 50 steps, guidance 5"
    assert found.video_request(0, WAN22_TI2V_5B).image == photograph.read_bytes()
    found.check(WAN22_TI2V_5B, RequestLimits())


def test_a_seed_that_is_drawn_is_the_same_for_all_who_are_measured(tmp_path: Path) -> None:
    def seeds(number: int) -> list[int]:
        return [
            order.fields["seed"] for order in read(tmp_path, "repeats = 20\n", REQUEST + "seed = -1\n").round(number)
        ]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 40
    assert min(seeds(1)) >= 0
    assert read(tmp_path, "", REQUEST + "seed = -1\n").video_request(0, WAN22_TI2V_5B).seed == 0


@pytest.mark.parametrize("path", sorted(WORKLOADS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_workload_that_we_ship_can_be_made(path: Path, photograph: Path) -> None:
    found = read_workload(path, USUAL, photograph)
    assert found.name == path.stem
    found.check(WAN22_TI2V_5B, RequestLimits())


def test_the_hash_stands_for_the_work(tmp_path: Path, photograph: Path) -> None:
    """What is sent and when counts; names and places do not."""
    with_image = REQUEST + 'image = "given"\n'
    first = read(tmp_path, "repeats = 2\n").sha256
    assert read(tmp_path, 'name = "other"\ndescription = "d"\nrepeats = 2\n').sha256 == first
    assert read(tmp_path, "repeats = 2\nconcurrency = 1\n").sha256 == first
    others = [
        read(tmp_path),
        read(tmp_path, "repeats = 2\nconcurrency = 2\n"),
        read(tmp_path, "repeats = 2\narrival_rate = 2\n"),
        read(tmp_path, "repeats = 2\n", REQUEST + "seed = 1\n"),
        read(tmp_path, "repeats = 2\n", REQUEST.replace("a boat", "a ship")),
        read(tmp_path, "repeats = 2\n", with_image, photograph),
    ]
    assert len({first, *(found.sha256 for found in others)}) == len(others) + 1
    copy = tmp_path / "elsewhere.jpg"
    copy.write_bytes(photograph.read_bytes())
    assert read(tmp_path, "repeats = 2\n", with_image, copy).sha256 == others[-1].sha256
    assert read(tmp_path, "repeats = 2\n", with_image.replace("given", copy.name)).sha256 == others[-1].sha256


def test_a_preset_brings_its_steps_to_a_workload(tmp_path: Path) -> None:
    """And what nobody names is no part of the work: workloads from before these fields have the same hash as then."""
    bare = "".join(line for line in REQUEST.splitlines(True) if "steps" not in line and "guidance" not in line)
    (kind,) = read(tmp_path, "", f'{bare}sampler = "fastwan-3step"\n').kinds
    assert (kind.num_inference_steps, kind.guidance_scale, kind.flow_shift) == (3, 1.0, 8.0)
    assert "3 steps of fastwan-3step, guidance 1" in kind.title
    (other,) = read(tmp_path, "", f"{REQUEST}sigmas = [1, 0.5]\n".replace("num_inference_steps = 3\n", "")).kinds
    assert (other.sigmas, other.num_inference_steps) == ((1.0, 0.5), 2)
    (content,) = read(tmp_path).content()["requests"]
    assert not content.keys() & {"sampler", "sigmas"}


def test_every_round_is_the_same_for_all_and_no_prompt_comes_twice(tmp_path: Path) -> None:
    found = read(tmp_path, "repeats = 2\nwarm_up = 1\n", REQUEST + REQUEST.replace('"blurry"', '""'))
    rounds = [*found.round(1), *found.round(2), *found.warm_up()]
    assert [order.kind for order in rounds] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert len({order.fields["prompt"] for order in rounds}) == len(rounds)
    assert {order.fields["negative_prompt"] for order in rounds if order.kind == 1} == {""}
    assert found.round(2) == found.round(2)
    said = {
        "prompt": "a boat (1)",
        "negative_prompt": "blurry (1)",
        "size": "128x96",
        "num_frames": 5,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "fps": 24,
        "flow_shift": 5.0,
        "seed": 0,
    }
    assert said.items() <= rounds[0].fields.items()
    same = read(tmp_path, "fresh_prompts = false\n")
    assert same.round(1)[0].fields["prompt"] == same.warm_up()[0].fields["prompt"] == "a boat"


def test_arrivals_follow_their_seed(tmp_path: Path) -> None:
    def moments(seed: int, number: int = 1) -> list[float]:
        head = f"repeats = 400\narrival_rate = 2\narrival_seed = {seed}\n"
        return [order.at_seconds for order in read(tmp_path, head).round(number)]

    found = moments(7)
    assert found == sorted(found) == moments(7)
    assert found != moments(8) and found != moments(7, number=2)
    assert found[-1] / len(found) == pytest.approx(0.5, rel=0.15)
    assert read(tmp_path, "arrival_rate = 2\n").concurrency is None
    assert read(tmp_path).concurrency == 1


@pytest.mark.parametrize(
    ("head", "request_", "says"),
    [
        ("repeat = 2\n", REQUEST, r"there is no repeat \(nearest: repeats\)"),
        (
            "",
            REQUEST + "num_frame = 5\nsteps = 4\n",
            "request 1: there is no num_frame .nearest: num_frames.; .* steps",
        ),
        ("", REQUEST.replace("= 5\nnum_inf", '= "5"\nnum_inf'), "num_frames"),
        ("repeats = 0\n", REQUEST, "repeats"),
        ("warm_up = -1\n", REQUEST, "warm_up"),
        ("arrival_rate = 0\n", REQUEST, "arrival_rate"),
        ("arrival_rate = 1\nconcurrency = 2\n", REQUEST, "not both"),
        ("arrival_seed = 1\n", REQUEST, "goes with arrival_rate"),
        ("request = []\n", "", r"no \[\[request\]\]"),
        ("", "", "request"),
        ("", REQUEST.replace("128x96", "128"), "request 1: size '128' is not WIDTHxHEIGHT"),
        ("", REQUEST + 'image = "given"\n', "--image"),
        ("", REQUEST + 'image = "absent.png"\n', r"absent\.png: No such file"),
        ("repeats = \n", REQUEST, "line 1"),
    ],
)
def test_a_file_that_is_wrong_says_what_is_wrong(tmp_path: Path, head: str, request_: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        read(tmp_path, head, request_)


def test_files_that_are_none() -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        read_workload(Path("absent.toml"), USUAL)


def test_what_the_model_cannot_make_is_said_before_a_server_is_started(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"num_frames = 5": "num_frames = 6", "128x96": "100x96"}
    text = REQUEST
    for old, new in wrong.items():
        text = text.replace(old, new)
    with pytest.raises(InvalidSetting, match=r"request 2: width: 100 .*nearest: 96.*num_frames: 6 .*nearest: 5"):
        read(tmp_path, "", REQUEST + text).check(WAN22_TI2V_5B, RequestLimits())


def test_without_a_file_a_checkpoints_defaults_are_sent() -> None:
    defaults = RequestDefaults(width=256, height=160, num_frames=17, num_inference_steps=8)
    (kind,) = Workload.usual(Usual.of_checkpoint(defaults, WAN22_TI2V_5B)).kinds
    assert kind.title == "T2V, 256x160, 17 frames, 8 steps, guidance 5"
    assert kind.flow_shift == WAN22_TI2V_5B.scheduler.flow_shift
    assert msgspec.json.decode(msgspec.json.encode(kind), type=type(kind)) == kind


def test_defaults_have_all_pictures_that_the_model_needs(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"a picture")
    for name, has_last, title in (("Wan2.1-FLF2V-14B-720P", True, "FLF2V"), ("Wan2.2-I2V-A14B", False, "I2V")):
        spec = known_model(name)
        usual = Usual.of_checkpoint(model_defaults(spec), spec)
        made = Workload.usual(usual, picture)
        made.check(spec, RequestLimits())
        (order,) = made.round(1)
        assert (order.image, order.last_image) == (b"a picture", b"a picture" if has_last else None)
        assert made.kinds[0].title.startswith(f"{title}, 1280x720, 81 frames")
        with pytest.raises(InvalidSetting, match=f"{name} makes no video without a picture; name one with --image"):
            Workload.usual(usual)


BARE = '[[request]]\nprompt = "a boat"\n'


def test_what_a_file_leaves_out_is_resolved_before_it_is_work(tmp_path: Path) -> None:
    """Whether it is said or left out, the same is sent, stands in results, and has the same hash."""
    path = tmp_path / "mine.toml"
    path.write_text(BARE)
    defaults = RequestDefaults(width=256, height=160, num_frames=17, num_inference_steps=8, fps=12, seed=3)
    found = read_workload(path, Usual.of_checkpoint(defaults, WAN22_TI2V_5B))
    path.write_text(
        f'{BARE}size = "256x160"\nnum_frames = 17\nnum_inference_steps = 8\nguidance_scale = 5\nfps = 12\n'
        "flow_shift = 5\n"
    )
    said = read_workload(path, Usual.of_checkpoint(defaults, WAN22_TI2V_5B))
    assert found.kinds == said.kinds and found.sha256 == said.sha256
    assert found.content()["requests"][0] == {
        "prompt": "a boat",
        "negative_prompt": "",
        "size": "256x160",
        "num_frames": 17,
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "fps": 12,
        "flow_shift": 5.0,
        "seed": 0,
        "image": None,
    }
    assert found.sha256 != read(tmp_path, "", BARE).sha256


def test_a_server_says_what_is_left_out_and_what_it_does_not_say_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(BARE)
    told = {"width": 64, "height": 96, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}
    card = ModelCard(id="theirs", defaults={**told, "colour": "red", "seed": None})
    found = read_workload(path, Usual.of_server(card))
    assert found.kinds[0].title == "T2V, 64x96, 5 frames, 2 steps, guidance 1"
    assert not found.round(1)[0].fields.keys() & {"fps", "flow_shift", "negative_prompt", "colour"}
    with pytest.raises(
        InvalidSetting, match=r"mine\.toml: request 1: another tells no default of num_frames, num_inference"
    ):
        read_workload(path, Usual(name="another", fields={}))


def test_one_guidance_is_both_experts(tmp_path: Path) -> None:
    """Of defaults with two, of a file with one, and of a variant."""
    spec = known_model("Wan2.2-T2V-A14B")
    path = tmp_path / "mine.toml"
    usual = Usual.of_checkpoint(RequestDefaults(guidance_scale=4.0, guidance_scale_2=3.0), spec)
    for more, scales in (("", (4.0, 3.0)), ("guidance_scale = 2\n", (2.0, 2.0))):
        path.write_text(f"{BARE}{more}[[variant]]\nguidance_scale = 1\n")
        found = read_workload(path, usual)
        varied = found.varied(found.variants[0])
        assert [(each.kinds[0].guidance_scale, each.kinds[0].guidance_scale_2) for each in (found, varied)] == [
            scales,
            (1.0, 1.0),
        ]
