"""Many ranks on one GPU: what spreading costs each of them, what a slow link costs, and whether they agree with one."""

from __future__ import annotations

from functools import partial

from gpu import agreement, merging, sending, slicing, text
from gpu.rates import allow_tf32
from gpu.scale import Scale
from gpu.section import Section

# What starting processes that share the device and all of their checks may take.
GROUP_SECONDS = {2: 20.0, 4: 25.0}


def run(section: Section, scale: Scale) -> None:
    """Two ranks agree with one; then what spreading costs."""
    allow_tf32(False)
    _check_group(section, scale, scale.groups[0])
    section.attempt("one call against parts merged", partial(merging.compare, scale))
    section.attempt("tokens at once against slices", partial(slicing.compare, scale))
    section.attempt("text encoder over ranks", partial(text.compare, scale))


def run_more(section: Section, scale: Scale) -> None:
    """What can be done without: it comes last."""
    allow_tf32(False)
    for num_ranks in scale.groups[1:]:
        _check_group(section, scale, num_ranks)
    section.attempt("sending over a slow link", partial(sending.compare, scale))


def _check_group(section: Section, scale: Scale, num_ranks: int) -> None:
    label = f"{num_ranks} ranks on one device agree with one"
    check = partial(agreement.compare, scale, num_ranks, section)
    needs_seconds = 0.0 if scale.self_test else GROUP_SECONDS[num_ranks]
    section.attempt(label, check, needs_seconds=needs_seconds)
