"""Experts: which of two a transformer's file holds. Its name says so, or its folder's, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

HIGH, LOW = "high", "low"
# high_noise, HighNoise and the like; HIGH and LOW by themselves only so, since small ones may be of anything.
EXPERT = re.compile(r"(?:high|low)(?=[-_ ]?noise)|(?<![A-Za-z])(?-i:HIGH|LOW)(?![A-Za-z])", re.IGNORECASE)
NOISE = re.compile(rf"[-_. ]?(?:{EXPERT.pattern})(?:[-_ ]?noise)?", re.IGNORECASE)
OTHERS = {"high": "low", "High": "Low", "HIGH": "LOW"}
OTHERS |= {low: high for high, low in OTHERS.items()}


def expert_of(place: Path) -> str:
    """Noise level of an expert's transformer, "high" or "low"; empty if no name says so."""
    found = EXPERT.findall("/".join(place.parts[-2:]))
    return found[-1].lower() if found else ""


def name_of_both(name: str) -> str:
    """Name of an expert's file without its noise level."""
    return NOISE.sub("", name) or name


def other_expert(place: Path) -> Path:
    """Path of the other expert, if it is named like this one."""
    renamed = EXPERT.sub(lambda word: OTHERS.get(word[0], word[0]), "/".join(place.parts[-2:]))
    return Path(*place.parts[:-2], *renamed.split("/"))
