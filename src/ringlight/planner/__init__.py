"""Planner of a request's cost on a layout: seconds by stage, bytes on the link, memory by rank. Arithmetic only."""
