"""Ringlight's nodes for ComfyUI, which finds them by these names."""

from .nodes import RinglightLora, RinglightPictureToVideo, RinglightServer, RinglightTextToVideo

NODE_CLASS_MAPPINGS = {
    kind.__name__: kind for kind in (RinglightTextToVideo, RinglightPictureToVideo, RinglightServer, RinglightLora)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RinglightTextToVideo": "Ringlight text to video",
    "RinglightPictureToVideo": "Ringlight picture to video",
    "RinglightServer": "Ringlight server",
    "RinglightLora": "Ringlight LoRA",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
