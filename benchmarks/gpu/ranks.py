"""Many ranks on one GPU: what spreading costs each of them, what a slow link costs, and whether they agree with one."""

from __future__ import annotations

from functools import partial

from gpu import agreement, merging, sending, slicing, text
from gpu.rates import allow_tf32
from gpu.report import Section
from gpu.scale import Scale

# What starting processes that share the device and all of their checks may take.
GROUP_SECONDS = {2: 25.0, 4: 35.0}


def run(section: Section, scale: Scale) -> None:
    """The most important first: what the section's time does not reach is cut from the end."""
    allow_tf32(False)
    section.attempt("one call against parts merged", partial(merging.compare, scale))
    section.attempt("tokens at once against slices", partial(slicing.compare, scale))
    section.attempt("text encoder over ranks", partial(text.compare, scale))
    _check_group(section, scale, 2)
    section.attempt("sending over a slow link", partial(sending.compare, scale))
    _check_group(section, scale, 4)


def _check_group(section: Section, scale: Scale, num_ranks: int) -> None:
    label = f"{num_ranks} ranks on one device agree with one"
    check = partial(agreement.compare, scale, num_ranks, section)
    section.attempt(label, check, needs_seconds=GROUP_SECONDS[num_ranks])
