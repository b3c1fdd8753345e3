"""The videos of a server: what is on disk, what a database knows of it, and the jobs that are live."""
