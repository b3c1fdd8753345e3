"""Launchers, which start the ranks of a replica."""
