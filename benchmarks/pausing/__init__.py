"""The parts of `benchmarks/turns.py`: what it means for a video to make way for a shorter one."""
