"""Tests of how the demo checkpoint is made, and of its judge."""
