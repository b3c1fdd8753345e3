"""Sizes that follow from a picture or from what was asked, and what is said of them."""

from __future__ import annotations

import pytest

from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.core.sizes import LONGEST_SHAPE, AskedSize, Size, decide_size
from ringlight.core.warning import size_warnings
from tests.planner.published import WAN22_TI2V_5B

DEFAULTS, LIMITS, OPEN = RequestDefaults(), RequestLimits(), (None, None)
AREA = DEFAULTS.width * DEFAULTS.height


def decided(asked: AskedSize, picture: Size | None = None, round_sizes: bool = False, **limits: int) -> AskedSize:
    return decide_size(asked, picture, DEFAULTS, WAN22_TI2V_5B, RequestLimits(**limits), round_sizes)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((1280, 704), (1280, 704)),
        ((704, 1280), (704, 1280)),
        ((720, 1280), (704, 1248)),  # as Wan's best_output_size has it, and so all that follow
        ((1920, 1080), (1248, 704)),
        ((3024, 4032), (800, 1088)),
        ((512, 600), (864, 1024)),
        ((3000, 2000), (1152, 768)),
        ((512, 512), (928, 928)),
    ],
)
def test_a_video_takes_the_shape_of_its_picture(picture: Size, size: Size) -> None:
    assert decided(OPEN, picture) == size


@pytest.mark.parametrize("picture", [(1, 1), (1, 100_000), (100_000, 1), (99, 1), (7, 13), (4000, 1500), (641, 640)])
def test_whatever_its_shape_the_size_can_be_made_of_at_most_the_defaults_area(picture: Size) -> None:
    width, height = decided(OPEN, picture)
    assert width and height
    assert (width % 32, height % 32) == (0, 0)
    assert 0.9 * AREA < width * height <= AREA
    assert width / height * 1.05 >= 1 / LONGEST_SHAPE
    assert width / height <= LONGEST_SHAPE * 1.05
    request = DEFAULTS.complete("p", WAN22_TI2V_5B, width=width, height=height)
    request.check(WAN22_TI2V_5B, LIMITS)


def test_the_operators_limit_holds() -> None:
    width, height = decided(OPEN, (600, 512), max_pixels=100_000)
    assert (width, height) == (320, 288)
    width, height = decided((320, None), (100, 300), max_pixels=100_000)
    assert (width, height) == (320, 288)


def test_one_side_follows_the_other() -> None:
    assert decided((640, None), (3024, 4032)) == (640, 864)
    assert decided((None, 640), (3024, 4032)) == (480, 640)
    assert decided((641, None), (100, 100)) == (641, 640)  # what was asked is left to be refused
    assert decided((640, None)) == (640, None)


def test_what_was_asked_wins() -> None:
    assert decided((64, 96), (720, 1280)) == (64, 96)
    assert decided((1280, 720), (720, 1280)) == (1280, 720)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ((1280, 720), (1280, 704)),
        ((720, 1280), (704, 1280)),
        ((1024, 1792), (1024, 1792)),
        ((1792, 1024), (1792, 1024)),
        ((1, 5), (32, 32)),
        ((0, -7), (0, -7)),
        ((None, 720), (None, 704)),
        (OPEN, OPEN),
    ],
)
def test_sizes_that_are_rounded(asked: AskedSize, size: AskedSize) -> None:
    """All four of OpenAI's own type are among them."""
    assert decided(asked, round_sizes=True) == size


def test_rounding_up_does_not_lead_over_the_limit() -> None:
    assert decided((1300, 700), round_sizes=True) == (1312, 704)
    assert decided((1300, 700), round_sizes=True, max_pixels=1300 * 700) == (1280, 672)


def told(asked: AskedSize, picture: Size | None, made: Size) -> list[tuple[str, str, str]]:
    request = DEFAULTS.complete("p", WAN22_TI2V_5B, width=made[0], height=made[1])
    return [(each.code, each.given, each.used) for each in size_warnings(asked, {"image": picture}, request)]


def test_what_is_said_of_a_size() -> None:
    assert told((1280, 720), None, (1280, 704)) == [("size_rounded", "1280x720", "1280x704")]
    assert told((None, 720), None, (1280, 704)) == [("size_rounded", "1280x720", "1280x704")]
    assert told((1280, 704), None, (1280, 704)) == told(OPEN, None, (1280, 704)) == []


def test_what_is_said_of_a_picture() -> None:
    assert told(OPEN, (720, 1280), (1280, 704)) == [("picture_cropped", "720x1280", "720x396")]
    assert told(OPEN, (1280, 720), (704, 704)) == [("picture_cropped", "1280x720", "720x720")]
    assert told((1280, 720), (1280, 720), (1280, 704)) == [
        ("size_rounded", "1280x720", "1280x704"),
        ("picture_cropped", "1280x720", "1280x704"),
    ]
    assert told(OPEN, (3024, 4032), (800, 1088)) == told(OPEN, (64, 64), (512, 512)) == []
    request = DEFAULTS.complete("p", WAN22_TI2V_5B)
    warning, of_last = size_warnings(OPEN, {"image": (720, 1280), "last_image": (1280, 1280)}, request)
    assert warning.message == (
        "of the picture's 720x1280 pixels the middle 720x396 are used: 69% of its height is cut for a video of 1280x704"
    )
    assert (warning.param, of_last.param) == ("input_reference", "last_image")
    assert of_last.message.startswith("of the last picture's 1280x1280 pixels the middle 1280x704 are used")
