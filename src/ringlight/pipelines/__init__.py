"""Stages in a straight line, from a request to frames."""
