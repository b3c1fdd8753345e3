"""Shapes that the API's server sends and its client reads: each is one class."""
