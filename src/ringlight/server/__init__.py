"""The HTTP server: the API, its jobs on disk, and the page."""
