"""Which of two experts a transformer's file holds: its name says so, or its folder's, and nothing else tells."""

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
    """Whether a transformer is one for high or for low noise; nothing where no name says so."""
    found = EXPERT.findall("/".join(place.parts[-2:]))
    return found[-1].lower() if found else ""


def name_of_both(name: str) -> str:
    """What a file of one expert is called but for the noise."""
    return NOISE.sub("", name) or name


def other_expert(place: Path) -> Path:
    """Where the other one would lie if it were called as this one is."""
    renamed = EXPERT.sub(lambda word: OTHERS.get(word[0], word[0]), "/".join(place.parts[-2:]))
    return Path(*place.parts[:-2], *renamed.split("/"))
