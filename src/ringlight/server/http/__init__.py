"""HTTP itself: errors and their codes, bodies, files, connections, and what surrounds every call."""
