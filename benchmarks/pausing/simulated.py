"""Traces as they were played, and as the planner's simulation plays them with their measured seconds."""

from __future__ import annotations

from .bars import Part
from .sizes import Sizes
from .takes import Site
from .trace import judged, play_all


def traces(site: Site, sizes: Sizes) -> Part:
    """Play all, and simulate those of one replica."""
    played = play_all(site, sizes)
    return judged(played, sizes)
