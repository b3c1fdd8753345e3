"""Colours of pictures from outside as the model knows them: sRGB, whatever profile a picture was made in."""

from __future__ import annotations

import io

from PIL import Image, ImageChops, ImageCms

SPACES = {"RGB": ("RGB",), "L": ("GRAY", "RGB"), "CMYK": ("CMYK",)}
"""Modes of pictures that are converted, and the colour spaces of profiles that can be theirs."""

SAME = 2  # of 255: a profile that changes no colour by more is sRGB, as somebody's rounding has it
STEPS = (0, 32, 64, 96, 128, 160, 192, 224, 255)


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an RGB, L or CMYK picture to sRGB. A profile that cannot be read, or is of other colours, is ignored."""
    if profile:
        try:
            return _converted(picture, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # garbage: better its numbers than no picture
            pass
    return picture.convert("RGB")


def _converted(picture: Image.Image, encoded: bytes) -> Image.Image:
    """Convert a picture by its profile. Raises what Pillow does if the profile is none for this picture."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(encoded))
    space = profile.profile.xcolor_space.strip()
    if space not in SPACES[picture.mode]:
        raise ValueError(f"a profile of {space} in a picture of {picture.mode}")
    if space == "RGB":
        picture = picture.convert("RGB")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), picture.mode, "RGB")
    if space == "RGB" and _changes_nothing(transform):
        return picture
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # it is only where a picture is changed in place
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    before = _colours()
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    return max(ImageChops.difference(before, after).tobytes()) <= SAME


def _colours() -> Image.Image:
    """A picture of colours from all over the cube."""
    values = bytes(value for red in STEPS for green in STEPS for blue in STEPS for value in (red, green, blue))
    return Image.frombytes("RGB", (len(STEPS) ** 2, len(STEPS)), values)
