"""The worker process: one per rank. It holds the model and makes one video at a time."""
