"""The nodes: a text, and pictures, to frames and a film that a Ringlight server makes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ringlight.core.lora import MAX_STRENGTH, TARGETS, Lora
from ringlight.core.video_fields import DRAW, VIDEO_FIELDS

from . import making
from .connection import KEY_VARIABLE, URL_VARIABLE, connected
from .pictures import frames_of, to_file
from .widgets import asked, widgets

try:
    from comfy_api.input_impl import VideoFromFile
except ImportError:  # a ComfyUI from before it had videos
    VideoFromFile = None

CATEGORY = "Ringlight"
SERVER, LORAS = "RINGLIGHT_SERVER", "RINGLIGHT_LORAS"
LORA_HELP = next(field.help for field in VIDEO_FIELDS if field.name == "lora")
AS_NAMED = "as its name says"


class RinglightServer:
    """A server that makes the videos. Without this node it is the one of the environment."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        f"Which Ringlight server makes the videos. Its key is taken from {KEY_VARIABLE}, of the environment that "
        f"ComfyUI was started in, and sent to the server that {URL_VARIABLE} names there alone."
    )
    RETURN_TYPES = (SERVER,)
    RETURN_NAMES = ("server",)
    FUNCTION = "name"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = f"Such as http://127.0.0.1:8898. Empty: as {URL_VARIABLE} says, else that address."
        return {"required": {"url": ("STRING", {"default": "", "tooltip": tooltip})}}

    def name(self, url: str) -> tuple[str]:
        """Give what is connected to nodes that make videos."""
        return (url,)


class RinglightLora:
    """A LoRA that the server offers, behind those that are connected."""

    CATEGORY = CATEGORY
    DESCRIPTION = LORA_HELP
    RETURN_TYPES = (LORAS,)
    RETURN_NAMES = ("loras",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = {"default": 1.0, "min": -MAX_STRENGTH, "max": MAX_STRENGTH, "step": 0.05}
        return {
            "required": {
                "name": ("STRING", {"default": "", "tooltip": "As the server calls it: ringlight jobs loras."}),
                "strength": ("FLOAT", strength | {"tooltip": "How strongly it is applied; not 0."}),
                "target": ([AS_NAMED, *TARGETS], {"tooltip": "On which of two experts, of models that have them."}),
            },
            "optional": {"loras": (LORAS, {"tooltip": "LoRAs to have beside it."})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None) -> bool | str:
        """Whether it is named, as far as that is known: what another node says is None yet."""
        return name is None or bool(name.strip()) or "name a LoRA that the server offers (ringlight jobs loras)"

    def add(self, name: str, strength: float, target: str, loras: tuple[Lora, ...] = ()) -> tuple[tuple[Lora, ...]]:
        """The LoRAs so far, and this one."""
        chosen = next((each for each in TARGETS if each == target), None)
        return ((*loras, Lora(name=name.strip(), strength=strength, target=chosen)),)


class RinglightTextToVideo:
    """A video of a text."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Has a Ringlight server make a video of a text. What is left as it is follows from its model."
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING", *(() if VideoFromFile is None else ("VIDEO",)))
    RETURN_NAMES = ("frames", "fps", "file", "video")[: len(RETURN_TYPES)]
    OUTPUT_TOOLTIPS = (
        "All frames.",
        "Frames in a second.",
        "The film's file, among ComfyUI's temporary ones.",
        "The film as the server made it.",
    )[: len(RETURN_TYPES)]
    FUNCTION = "make"
    PICTURES: ClassVar[dict[str, dict[str, Any]]] = {"required": {}, "optional": {}}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        prompt = ("STRING", {"default": "", "multiline": True, "tooltip": "What the video shows."})
        sockets = {
            "server": (SERVER, {"tooltip": f"Left open: as {URL_VARIABLE} says."}),
            "loras": (LORAS, {"tooltip": LORA_HELP}),
        }
        return {
            "required": {"prompt": prompt, **cls.PICTURES["required"]},
            "optional": {**cls.PICTURES["optional"], **sockets, **widgets()},
        }

    @classmethod
    def IS_CHANGED(cls, seed: int = DRAW, **_: Any) -> float:
        """Another value each time where the seed is drawn, so that ComfyUI makes another video."""
        return float("nan") if seed == DRAW else 0.0  # a new one: keys of a cache hold math.nan equal to itself

    def make(
        self,
        prompt: str,
        server: str = "",
        loras: tuple[Lora, ...] = (),
        first_frame: torch.Tensor | None = None,
        last_frame: torch.Tensor | None = None,
        **values: Any,
    ) -> tuple[Any, ...]:
        """The frames, how many of them a second, the film's file, and where ComfyUI knows videos the film."""
        order = asked(values) | ({"lora": loras} if loras else {})
        for name, picture in {"image": first_frame, "last_image": last_frame}.items():
            if picture is not None:
                order[name] = to_file(picture)
        with connected(server) as client:
            video, path = making.make(client, prompt, **order)
        film = () if VideoFromFile is None else (VideoFromFile(str(path)),)
        return frames_of(path), float(video.fps or 0), str(path), *film


class RinglightPictureToVideo(RinglightTextToVideo):
    """A video that begins with a picture, and may end with one."""

    DESCRIPTION = (
        "Has a Ringlight server make a video that begins with a picture and, where its model takes one, ends with "
        "another. Without width and height it has the picture's shape."
    )
    PICTURES: ClassVar[dict[str, dict[str, Any]]] = {
        "required": {"first_frame": ("IMAGE", {"tooltip": "Of a batch the first picture."})},
        "optional": {"last_frame": ("IMAGE", {"tooltip": "Of models that take one. Of a batch the first picture."})},
    }
