"""Attention kernels by name: those that come along, and those that other packages add by an entry point."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points

from ringlight.core.errors import InvalidSetting

AUTO = "auto"
GROUP = "ringlight.attention"  # of entry points: a name, and the place of a class that is an AttentionKernel

ATTENTION: Mapping[str, str] = {
    "flash_cpu": "ringlight.kernels.attention.sdpa:FlashCpu",
    "cudnn": "ringlight.kernels.attention.sdpa:Cudnn",
    "flash": "ringlight.kernels.attention.sdpa:Flash",
    "efficient": "ringlight.kernels.attention.sdpa:Efficient",
    "reference": "ringlight.kernels.attention.reference:Reference",
}

ATTENTION_HELP = (
    f"Kernel by its name: {', '.join(ATTENTION)}, or a package's own; auto takes the first that is right on the device."
)

# In order of preference. The reference holds all scores at once: it is the yardstick, and taken only by name.
PREFERRED = ("flash_cpu", "cudnn", "flash", "efficient")


def attention_place(name: str) -> str:
    """The place of a kernel's class, as MODULE:CLASS. Raises InvalidSetting that lists the names there are."""
    if name in ATTENTION:
        return ATTENTION[name]
    added = {point.name: point.value for point in entry_points(group=GROUP)}
    if name in added:
        return added[name]
    known = [AUTO, *ATTENTION, *sorted(added)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InvalidSetting(f"attention {name!r} is none of {', '.join(known)}{hint}")
