"""Families of models: a folder each, found by what a checkpoint's `model_index.json` says.

Of a folder `card` (what the JSON says) and what it makes of `layers` belong to the front, without torch; `networks`,
`recipe` and `demo` to the workshop.
"""
