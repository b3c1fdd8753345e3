"""Where weights lie, and when they move: a host's copy for all of its ranks, and what of it is on a device."""
