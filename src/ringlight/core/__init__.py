"""The vocabulary of Ringlight: types and arithmetic, no torch."""
