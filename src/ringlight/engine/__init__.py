"""The engine: takes requests, starts worker processes, follows their jobs."""
