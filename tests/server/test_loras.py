"""LoRAs over HTTP: offered by name, asked for in every way that clients have, and what follows from such a video."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from openai import BadRequestError
from playwright.sync_api import expect

from ringlight.client import Client
from ringlight.core.lora import Lora
from tests.cli.commands import here, ringlight
from tests.docs.examples import URL, Example, examples_of, run
from tests.loras import write_lora
from tests.server.browser import card, chromium, fill, opened
from tests.server.sdk import REST, Counting, create, openai_client
from tests.server.served import LONG, SMALL, Served, error_of, serve

pytestmark = pytest.mark.slow  # a real server

PAGE = Path(__file__).parents[2] / "docs/lora.md"
Frames = NDArray[np.uint8]
FORM = {name: str(value) for name, value in SMALL.items()}
INK = {"name": "styles/ink", "strength": 0.5, "target": "both"}
SPEED = {"name": "speed", "strength": 1.0, "target": "both"}
BASE = {"name": "base", "strength": 0.25, "target": "both"}


def frames_of(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([each.to_ndarray(format="rgb24") for each in container.decode(video=0)])


def write(path: Path, checkpoint: Path, seed: int) -> None:
    """A LoRA of a few weights, which changes what they do a lot."""
    write_lora(path, checkpoint / "transformer", modules=lambda name: name.startswith("blocks.0."), seed=seed, size=1.0)


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("styles/ink", "speed", "wide")):
        write(folder / f"{name}.safetensors", tiny, seed)
    (folder / "broken.safetensors").write_bytes(b"no safetensors")
    outside = tmp_path_factory.mktemp("elsewhere")
    write(outside / "base.safetensors", tiny, 3)
    (folder / "outside.safetensors").symlink_to(outside / "base.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A file that no folder offers."""
    return (folder / "outside.safetensors").resolve()


@pytest.fixture(scope="module")
def server(tiny: Path, folder: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--lora-dir", folder, "--lora", f"{base}:0.25", "--drain-timeout", 0)
    with serve(tmp_path_factory.mktemp("served"), tiny, *flags) as server:
        yield server


def told(video: dict[str, Any]) -> list[dict[str, Any]]:
    """What an answer says of LoRAs, but for their files."""
    for lora in video["lora"]:
        assert len(lora.pop("sha256")) == 64 and lora.pop("num_bytes") > 0
    return list(video["lora"])


def asked(server: Served, **sent: Any) -> list[dict[str, Any]]:
    """What a request becomes, which is then not made."""
    answer = server.http.post("/v1/videos", **sent)
    assert answer.status_code == 200, answer.text
    server.http.delete(f"/v1/videos/{answer.json()['id']}")
    return told(answer.json())


def test_what_may_be_named_is_told_as_it_lies_there(server: Served, folder: Path, tiny: Path) -> None:
    def offered() -> list[str]:
        (model,) = server.http.get("/v1/models").json()["data"]
        first, *others = model["loras"]
        assert first == BASE | {"is_always_on": True, "problem": None}
        assert not model["has_experts"] and not any(lora["is_always_on"] for lora in others)
        problems = {lora["name"]: lora["problem"] for lora in others}
        assert problems.pop("broken").startswith("broken.safetensors: not a readable safetensors file")
        assert not any(problems.values())
        return [lora["name"] for lora in others]

    assert offered() == ["broken", "speed", "styles/ink", "wide"], "nothing from outside of the folder"
    write(folder / "late.safetensors", tiny, 5)
    assert "late" in offered()
    assert asked(server, json=SMALL | {"lora": "late"})[1]["name"] == "late"
    (folder / "late.safetensors").unlink()
    assert "late" not in offered()


@pytest.mark.parametrize(
    "sent",
    [
        {"json": SMALL | {"lora": [INK, "speed"]}},
        {"json": SMALL | {"lora": ["styles/ink:0.5", {"name": "speed", "target": None}]}},
        {"json": SMALL | {"extra_body": {"lora": [{"name": "styles/ink", "scale": 0.5}, SPEED]}}},
        {"data": FORM | {"lora": json.dumps([INK, "speed"])}},
        {"data": FORM | {"lora[]": ["styles/ink:0.5", json.dumps({"name": "speed"})]}},
        {
            "files": [
                *((name, (None, value)) for name, value in FORM.items()),
                ("lora", (None, json.dumps([INK, SPEED]))),
            ]
        },
        {
            "files": [
                *((name, (None, value)) for name, value in FORM.items()),
                ("lora[][name]", (None, "styles/ink")),
                ("lora[][lora_scale]", (None, "0.5")),
                ("lora[][name]", (None, "speed")),
            ]
        },
    ],
    ids=lambda sent: next(iter(sent)),
)
def test_all_ways_to_ask_are_one(server: Served, sent: dict[str, Any]) -> None:
    assert asked(server, **sent) == [BASE, INK, SPEED]


def test_one_is_named_by_itself_and_none_by_nothing(server: Served) -> None:
    for one in ("styles/ink:0.5", INK):
        assert asked(server, json=SMALL | {"lora": one}) == [BASE, INK]
    assert asked(server, data=FORM | {"lora": "styles/ink:0.5"}) == [BASE, INK]
    for none in ({}, {"lora": None}, {"lora": []}):
        assert asked(server, json=SMALL | none) == [BASE]
    assert asked(server, data=FORM | {"lora": ""}) == [BASE]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lora": "styles/inc"}, ["there is no LoRA styles/inc (nearest: styles/ink)"]),
        ({"lora": ["styles/inc", "sped"]}, ["nearest: styles/ink", "nearest: speed"]),
        ({"lora": "base"}, ["base is always on here; leave it out"]),
        ({"lora": ["speed", "speed:0.5"]}, ["speed is asked for twice"]),
        ({"lora": "speed:11"}, ["between -10 and 10"]),
        ({"lora": "speed:1:low"}, ["has one transformer"]),
        ({"lora": "styles/ink:much"}, ["styles/ink:much: 'much' is no strength", "such as styles/ink:0.8"]),
        ({"lora": {"name": "styles/ink:0.8"}}, ["are said once", "in fields of their own"]),
        ({"lora": {"name": "speed", "strength": "strong"}}, ["lora: speed: strength 'strong' is no number, such as"]),
        ({"lora": "broken"}, ["broken.safetensors"]),
        ({"lora": {"path": "/etc/passwd"}}, ["no request names a path on the server"]),
        ({"lora": {"name": "/etc/passwd"}}, ["there is no LoRA passwd"]),
        ({"lora": "../elsewhere/base"}, ["there is no LoRA ../elsewhere/base"]),
        ({"lora": "outside"}, ["there is no LoRA outside"]),
        ({"lora": {"name": "speed", "sha256": "0" * 64}}, ["speed is another file than was asked for"]),
        ({"lora": "[1, "}, ["not JSON"]),
        ({"lora": 4}, ["is not NAME[:STRENGTH[:TARGET]]"]),
        ({"loras": "speed"}, ["loras: is not a field of this call (nearest: lora)"]),
        ({"lora_path": "x"}, ["lora_path: is not a field of this call (nearest: lora)"]),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_with_what_can(
    server: Served, folder: Path, fields: dict[str, Any], words: list[str]
) -> None:
    error = error_of(server.http.post("/v1/videos", json=SMALL | fields))
    assert (error["code"], error["param"]) == ("invalid_request", next(iter(fields)))
    for word in words:
        assert word in error["message"]
    assert str(folder) not in error["message"] and str(folder.parent) not in error["message"]


def test_all_that_is_wrong_is_named_at_once(server: Served) -> None:
    fields = {"lora": ["sped", {"name": "speed", "strength": 11}], "num_frames": 6, "size": "65x64"}
    message = error_of(server.http.post("/v1/videos", json=SMALL | fields))["message"]
    for word in ("size: width 65", "num_frames: 6", "lora: there is no LoRA sped", "between -10 and 10"):
        assert word in message
    twice = server.http.post("/v1/videos", content="prompt=a&lora=a&lora=b", headers={"content-type": URLENCODED})
    assert "lora: stands there twice; a list is written lora[]" in error_of(twice)["message"]


URLENCODED = "application/x-www-form-urlencoded"


def test_what_follows_from_a_video_has_its_loras(server: Served) -> None:
    source = server.completed(lora="styles/ink:0.5")
    whole = source["lora"]
    remix = server.http.post(f"/v1/videos/{source['id']}/remix", json={"prompt": "a whale"}).json()
    assert remix["lora"] == whole
    for fields, loras in (
        ({}, [BASE, INK]),
        ({"lora": "speed"}, [BASE, SPEED]),
        ({"lora": []}, [BASE]),
        ({"lora": whole[1]}, [BASE, INK]),
    ):
        call = {"prompt": "on", "video": {"id": source["id"]}, "num_frames": 5} | fields
        made = server.http.post("/v1/videos/extensions", json=call)
        assert made.status_code == 200, made.text
        assert told(made.json()) == loras
    report = server.http.get(f"/v1/videos/{source['id']}/report").json()
    assert [lora["sha256"] for lora in report["workload"]["lora"]] == [lora["sha256"] for lora in whole]


def test_a_name_over_http_is_a_file_on_the_command_line(
    server: Served, tiny: Path, folder: Path, base: Path, tmp_path: Path
) -> None:
    """The same frames; other ones than without, and with what every video has the same again after another."""

    def fetched(name: str, **fields: Any) -> Frames:
        video = server.completed(**fields)
        (tmp_path / f"{name}.mp4").write_bytes(server.http.get(f"/v1/videos/{video['id']}/content").content)
        return frames_of(tmp_path / f"{name}.mp4")

    without, with_one, again = fetched("without"), fetched("with", lora="speed:-1"), fetched("again")
    np.testing.assert_array_equal(without, again)
    assert np.abs(without.astype(int) - with_one).mean() > 1
    flags = [
        "--size",
        "64x64",
        "--num-frames",
        5,
        "--num-inference-steps",
        2,
        "--seed",
        7,
        "--num-threads",
        1,
        "--quiet",
    ]
    made = ["generate", "--model-path", tiny, "--prompt", SMALL["prompt"], *flags, "--lora", f"{base}:0.25"]
    for name, loras, expected in (
        ("one", ["--lora", "speed:-1", "--lora-dir", folder], with_one),
        ("none", [], without),
    ):
        done = ringlight(*made, *loras, "--output", tmp_path / f"{name}.mp4")
        assert done.code == 0, done.err
        np.testing.assert_array_equal(frames_of(tmp_path / f"{name}.mp4"), expected)
        assert "| base (" in done.out and ("| speed (" in done.out) == bool(loras)


def test_clients(server: Served, photograph: Path) -> None:
    """OpenAI's own, with a picture as a form and without one; ours, and its command."""
    client = openai_client(server, Counting())
    extra = {"extra_body": REST | {"lora": [{"name": "styles/ink", "strength": 0.5}, {"name": "speed", "strength": 1}]}}
    with photograph.open("rb") as picture:
        for more in ({}, {"input_reference": picture}):
            video: Any = create(client, **extra, **more)
            assert told({"lora": video.lora}) == [BASE, INK, SPEED]
            server.http.delete(f"/v1/videos/{video.id}")
    unlike = REST | {"lora": [{"name": "styles/ink"}, {"name": "speed", "strength": 0.5}]}  # which has it, is not sent
    with pytest.raises(BadRequestError, match="do not all have the same fields"):
        create(client, extra_body=unlike)
    with Client(server.url) as ours:
        assert [lora.name for lora in ours.loras()] == ["base", "broken", "speed", "styles/ink", "wide"]
        for said in ("speed", [Lora(name="speed")], [SPEED], ("speed:1",)):
            for image in (None, photograph):
                made = ours.create("a boat", image, lora=said, size="64x64", num_frames=5, num_inference_steps=1)
                assert [lora.name for lora in made.lora or ()] == ["base", "speed"]
                ours.delete(made.id)
    create_flags = ["--size", "64x64", "--num-frames", 5, "--num-inference-steps", 1, "--url", server.url]
    done = here("jobs", "create", "--prompt", "p", "--lora", "speed", "--lora", "styles/ink:0.5", *create_flags)
    assert done.code == 0, done.err
    shown = here("jobs", "show", done.out.strip(), "--url", server.url).out
    assert "base:0.25, speed, styles/ink:0.5" in shown
    listed = here("jobs", "loras", "--url", server.url).out.splitlines()
    unusable = listed.pop(1)
    assert unusable.startswith("broken  (cannot be used: broken.safetensors: not a readable safetensors file")
    assert listed == ["base  (in every video, strength 0.25)", "speed", "styles/ink", "wide"]
    wrong = here("jobs", "create", "--prompt", "p", "--lora", "sped", *create_flags)
    assert wrong.code == 3 and "nearest: speed" in wrong.err
    usage = here("jobs", "create", "--prompt", "p", "--lora", "speed:0", *create_flags)
    assert usage.code == 2 and "changes nothing" in usage.err and "'--lora'" in usage.err


def test_the_page_offers_them(server: Served) -> None:
    with chromium() as browser, opened(browser, server.url) as page:
        fill(page, "in ink")
        box = page.get_by_role("group", name="LoRAs")
        expect(box).to_contain_text("In every video: base 0.25")
        box.get_by_text("1 cannot be used").click()
        expect(box).to_contain_text("broken: broken.safetensors: not a readable safetensors file")
        adder = page.get_by_label("Add a LoRA")
        for name in ("styles/ink", "speed", "wide"):
            adder.select_option(name)
        page.get_by_label("Strength of styles/ink").fill("0.5")
        page.get_by_label("Remove wide").click()
        assert adder.locator("option").all_inner_texts() == ["Add a LoRA", "wide"]
        with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            page.get_by_role("button", name="Make video").click()
        video = answered.value.json()
        made = card(page, video["id"], "completed")
        for fact in ("LoRA base 0.25", "LoRA styles/ink 0.5", "LoRA speed 1"):
            expect(made.locator(".facts")).to_contain_text(fact)
        expect(made.locator(".report .note")).to_contain_text(
            re.compile(r"LoRA speed \(\w{12}\): \d+ of \d+ modules, .*merged")
        )
        assert told(video) == [BASE, INK, SPEED]
        page.get_by_label("Remove speed").click()
        page.get_by_label("Strength of styles/ink").fill("11")
        page.get_by_role("button", name="Make video").click()
        expect(page.locator("[data-field=lora] .problem")).to_contain_text("between -10 and 10")
        expect(page.get_by_label("Strength of styles/ink")).to_be_focused()
        made.get_by_role("button", name="Use settings").click()
        expect(page.get_by_label("Strength of styles/ink")).to_have_value("0.5")
        expect(page.get_by_label("Strength of speed")).to_have_value("1")
        assert page.locator("#loras li").count() == 2, "what every video has is not asked for"


@pytest.mark.parametrize("example", examples_of(PAGE), ids=lambda example: str(example.line))
def test_the_examples_of_the_page(example: Example, server: Served, tiny: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("style", "lightx2v_high_noise", "lightx2v_low_noise"):
        shutil.copy(folder / "speed.safetensors", tmp_path / f"{name}.safetensors")
    text = example.text.replace("DIR", str(tiny)).replace("/models/loras", str(folder)).replace("\\\n", " ")
    if text.startswith("ringlight generate "):
        typed = [*shlex.split(text)[1:], "--num-inference-steps", 1, "--size", "64x64", "--num-frames", 5]
        done = ringlight(*typed, folder=tmp_path)
        assert done.code == 0 and "| style (" in done.out, done.err
    elif text.startswith("ringlight serve "):
        done = here(*shlex.split(text)[1:], "--dry-run", folder=tmp_path)
        assert done.code == 0 and "\nlora    " in done.out, done.err
    else:
        out = run(example.language, text.replace(URL, server.url), tmp_path)
        assert "styles/ink" in out and '"error":{' not in out.replace(" ", "")
    for video in server.http.get("/v1/videos").json()["data"]:
        server.http.delete(f"/v1/videos/{video['id']}")


def test_a_stored_job_goes_on_with_its_files_or_says_why_not(tiny: Path, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "loras"
    for seed, name in enumerate(("kept", "changed", "gone")):
        write(own / f"{name}.safetensors", tiny, seed)
    flags = ("--drain-timeout", 0, "--no-warm-up", "--scheduling", "arrival", "--lora-dir", own)
    with serve(tmp_path, tiny, *flags) as server:
        running = server.wait(server.create(**LONG)["id"], "in_progress")
        ids = {name: server.create(lora=name)["id"] for name in ("kept", "changed", "gone")}
        server.stop()
    (own / "gone.safetensors").unlink()
    write(own / "changed.safetensors", tiny, 7)
    write(tmp_path / "new.safetensors", tiny, 8)
    with serve(tmp_path, tiny, *flags, "--lora", tmp_path / "new.safetensors") as server:
        server.http.delete(f"/v1/videos/{running['id']}")
        for name, words in {"changed": "another file", "gone": "not offered any more"}.items():
            error = server.wait(ids[name], "failed")["error"]
            assert error["code"] == "invalid_request" and words in error["message"]
        kept = server.wait(ids["kept"])
        assert [lora["name"] for lora in kept["lora"]] == ["kept"], "as it was accepted, without what is new"
        assert [lora["name"] for lora in server.completed()["lora"]] == ["new"]
