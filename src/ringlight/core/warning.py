"""RequestWarning: that a video is not quite what was asked, and in what. Said once, and shown wherever a video is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ringlight.core.lora import LoraFile
from ringlight.core.plain import plain
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.core.sizes import AskedSize, Size

PICTURES = {
    "image": ("input_reference", "picture"),
    "last_image": ("last_image", "last picture"),
}  # on the wire, and said
LEAST_CUT = 0.02  # of a picture's width or height; less is a matter of multiples, and nobody sees it

Code = Literal["size_rounded", "picture_cropped", "prompt_truncated", "lora_in_part", "without_guidance"]


class RequestWarning(msgspec.Struct, frozen=True, kw_only=True):
    """Difference between a video and what was asked.

    size_rounded: two sizes, such as 1280x720 and 1280x704. picture_cropped: the picture's size in its own pixels, and
    of those the part that is seen. prompt_truncated: numbers of tokens. lora_in_part: its name, and what of it is used.
    without_guidance: a field that only guidance reads; its value, or the characters of a text.
    """

    code: Code
    param: Annotated[str, Meta(description="The field of the request that it is about.")]
    given: Annotated[
        str,
        Meta(
            description="What was asked: a size, the picture's size in its own pixels, the tokens of a prompt, the "
            "name of a LoRA, or a value that has no effect."
        ),
    ]
    used: Annotated[
        str,
        Meta(
            description="What is made of it: the size, the part of the picture that is used, the tokens that are "
            "read, what is taken of the LoRA, or nothing."
        ),
    ]
    message: Annotated[str, Meta(description="One line for people.")]


Warnings = tuple[RequestWarning, ...]


def size_warnings(asked: AskedSize, pictures: Mapping[str, Size | None], request: VideoRequest) -> Warnings:
    """Warnings if `request` rounds the size that was asked, or crops its upright pictures, by their fields."""
    found = [_rounded(asked, request)]
    found += [_cropped(name, size, request) for name, size in pictures.items() if size is not None]
    return tuple(warning for warning in found if warning is not None)


def prompt_truncated(param: str, num_tokens: int, most: int) -> RequestWarning:
    """Warning that a prompt has more tokens than the text encoder reads."""
    return RequestWarning(
        code="prompt_truncated",
        param=param,
        given=str(num_tokens),
        used=str(most),
        message=f"the {param.replace('_', ' ')} has {num_tokens} tokens and the text encoder reads the first {most}; "
        "what comes after them has no effect",
    )


def without_guidance(request: VideoRequest, usual: RequestDefaults) -> Iterator[RequestWarning]:
    """Warnings about fields that only guidance reads, in a request without it; usual values do not count."""
    if request.uses_guidance:
        return
    prompt, scale = request.negative_prompt, request.guidance_scale_2 or 0
    given = {
        "negative_prompt": f"{len(prompt)} characters" if prompt.strip() and prompt != usual.negative_prompt else "",
        "guidance_scale_2": plain(scale) if scale > 1 else "",
    }
    for param in filter(given.__getitem__, given):
        yield RequestWarning(
            code="without_guidance",
            param=param,
            given=given[param],
            used="nothing",
            message=f"{param} has no effect: with a guidance_scale of {plain(request.guidance_scale)} there is no "
            "guidance, which begins above 1",
        )


def lora_in_part(name: str, file: LoraFile) -> RequestWarning:
    """Warning that a LoRA has tensors for parts that the model lacks."""
    return RequestWarning(
        code="lora_in_part", param="lora", given=name, used=file.told, message=f"the LoRA {name}: {file.left_out}"
    )


def _rounded(asked: AskedSize, request: VideoRequest) -> RequestWarning | None:
    made = (request.width, request.height)
    wanted = tuple(have if want is None else want for want, have in zip(asked, made, strict=True))
    if wanted == made:
        return None
    given, used = _as_text(wanted), _as_text(made)
    return RequestWarning(
        code="size_rounded",
        param="size",
        given=given,
        used=used,
        message=f"the size is {used} instead of {given}: the model makes only certain multiples",
    )


def _cropped(name: str, picture: Size, request: VideoRequest) -> RequestWarning | None:
    """Warning if ImageOps.fit crops a picture: it covers the video, and the excess is cut evenly at both sides."""
    width, height = picture
    scale = max(request.width / width, request.height / height)
    kept = (min(width, round(request.width / scale)), min(height, round(request.height / scale)))
    cut = {"width": 1 - kept[0] / width, "height": 1 - kept[1] / height}
    side = max(cut, key=lambda name: cut[name])
    if cut[side] < LEAST_CUT:
        return None
    given, used = _as_text(picture), _as_text(kept)
    param, which = PICTURES[name]
    return RequestWarning(
        code="picture_cropped",
        param=param,
        given=given,
        used=used,
        message=f"of the {which}'s {given} pixels the middle {used} are used: {cut[side]:.0%} of its {side} is cut for "
        f"a video of {request.width}x{request.height}",
    )


def _as_text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
