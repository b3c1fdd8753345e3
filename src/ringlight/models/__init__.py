"""Networks, written from their checkpoints' layout."""
