"""The judge sees in drawn films what they show, and sees each thing that is wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from training.drawing import Frames, Size, Window, draw
from training.world import Scene, caption, draw_scene, held_out

from ringlight.bench.judge import ASPECTS, judge
from ringlight.core.demo_world import COLOURS, MOTIONS, PLACES, SHAPES, Look, read_prompt, words

SMALL = Size(160, 96, 5)


def scene_of(**changes: str) -> Scene:
    """A scene of chance, of which some is as asked."""
    asked = {"shape": "ball", "colour": "red", "place": "meadow", "motion": "fall"} | changes
    return replace(draw_scene(np.random.default_rng(4)), x=0.55, travel=0.38, **asked)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_sees_what_is_drawn_in_every_place(shape: str) -> None:
    for number, colour in enumerate(COLOURS):
        place = list(PLACES)[number % 4]
        film = draw(scene_of(shape=shape, colour=colour, place=place), Size(96, 64, 3))
        assert judge(film, "").seen == Look(colour, shape, "fall", place)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "motions"), [(SMALL, MOTIONS), (Size(), ["right"]), (Size(320, 192, 5), ["rise"])])
def test_it_sees_motions_at_every_size(size: Size, motions: Iterable[str]) -> None:
    for motion in motions:
        scene = next(s for s in map(draw_scene, map(np.random.default_rng, range(99))) if s.motion == motion)
        assert judge(draw(scene, size), caption(scene)).whole


def other_colour(scene: Scene) -> Frames:
    return draw(replace(scene, colour="blue"), SMALL)


def other_shape(scene: Scene) -> Frames:
    return draw(replace(scene, shape="box"), SMALL)


def other_place(scene: Scene) -> Frames:
    return draw(replace(scene, place="snow"), SMALL)


def backwards(scene: Scene) -> Frames:
    return draw(scene, SMALL)[::-1]


def at_rest(scene: Scene) -> Frames:
    return draw(scene, SMALL)[:1].repeat(SMALL.frames, 0)


@pytest.mark.parametrize(
    ("fault", "aspect"),
    [
        (other_colour, "colour"),
        (other_shape, "shape"),
        (other_place, "place"),
        (backwards, "motion"),
        (at_rest, "motion"),
    ],
)
def test_a_planted_fault_is_all_that_is_wrong(fault: Callable[[Scene], Frames], aspect: str) -> None:
    scene = scene_of(place="desert")
    assert judge(draw(scene, SMALL), caption(scene)).whole
    assert judge(fault(scene), caption(scene)).right == {name: name != aspect for name in ASPECTS}


def test_nothing_is_seen_in_noise_or_in_an_empty_place() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 96, 128, 3)).astype(np.uint8)
    assert judge(noise, "a red ball").right == {"colour": False, "shape": False}
    away = replace(scene_of(), x=3.0)
    assert judge(draw(away, SMALL), caption(away)).seen == Look(place="meadow")


def test_a_still_is_not_asked_for_motion() -> None:
    verdict = judge(draw(scene_of(), SMALL, range(1)), caption(scene_of()))
    assert verdict.right == {"colour": True, "shape": True, "place": True}


@pytest.mark.parametrize(
    ("prompt", "look"),
    [
        ("A red ball rolls to the right over green ground.", Look("red", "ball", "right", "meadow")),
        ("over green ground, a green cube climbs", Look("green", "box", "rise", "meadow")),
        ("the violet pyramid drops at midnight", Look("purple", "cone", "fall", "night")),
        ("a whale in winter", Look(place="snow")),
        ("", Look()),
    ],
)
def test_a_prompt_is_read_by_its_words(prompt: str, look: Look) -> None:
    assert read_prompt(prompt) == look


def test_captions_say_what_scenes_are_in_words_that_are_known() -> None:
    rng, known = np.random.default_rng(1), words()
    for new in (False, True):
        for _ in range(100):
            scene = draw_scene(rng, new=new)
            text = caption(scene, rng)
            assert read_prompt(text) == scene.look
            assert set(text.split()) <= set(known)
            assert held_out(scene.shape, scene.colour, scene.place) == new


def test_held_out_combinations_leave_each_pair_of_theirs() -> None:
    new = [(s, c, p) for s in SHAPES for c in COLOURS for p in PLACES if held_out(s, c, p)]
    seen = [(s, c, p) for s in SHAPES for c in COLOURS for p in PLACES if not held_out(s, c, p)]
    assert 8 <= len(new) <= 12
    for s, c, p in new:
        assert {(s, c), (s, p), (c, p)} <= {pair for x, y, z in seen for pair in ((x, y), (x, z), (y, z))}


def test_a_part_of_a_clip_is_drawn_as_in_the_whole() -> None:
    whole = draw(scene_of(), SMALL)
    part = draw(scene_of(), SMALL, range(2, 5), Window(60, 20, 64, 48))
    assert (part == whole[2:5, 20:68, 60:124]).all()
