"""What `gpu_check.py` runs: checks and timings of everything that needs a GPU, one kind of thing per file."""
