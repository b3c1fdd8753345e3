"""Observability: metrics, logs and traces of a server."""
