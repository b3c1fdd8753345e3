"""What only a GPU can decide: the ways that are open, in turns, the most telling first."""

from __future__ import annotations

from functools import partial

from gpu import copies, norms, padding, portions, products, segments, vae
from gpu.rates import Rates
from gpu.scale import Scale
from gpu.section import Section

PROCESSES_SECONDS = 20.0  # that the two of `segments` may take


def run(section: Section, scale: Scale) -> None:
    section.attempt("padding of the text", partial(padding.compare, scale))
    section.attempt("norm in the VAE", partial(norms.compare, scale))
    section.attempt("GELU in the product", partial(products.compare_gelu, scale))
    section.attempt("tokens at a time", partial(portions.compare, scale))
    section.attempt("frames to the host", partial(copies.compare, scale))
    section.attempt("sums in bfloat16", partial(products.compare_sums, scale))
    needs_seconds = 0.0 if scale.self_test else PROCESSES_SECONDS
    section.attempt("expandable segments", partial(segments.compare, scale), needs_seconds=needs_seconds)
    vae.run_search(section, scale, Rates(section.earlier))
