"""Measuring servers over HTTP, and saying what was measured: the page, charts, a trace, comparisons and gates."""
