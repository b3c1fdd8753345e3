"""Residency: where weights lie, and when they move. A host's copy serves all of its ranks; a device has parts of it."""
