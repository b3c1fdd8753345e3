"""Tests. Memory is not searched for garbage while they are imported: it would be again and again, for longer than the
imports themselves take, and what is imported stays. tests/conftest.py ends that."""

import gc

gc.disable()
