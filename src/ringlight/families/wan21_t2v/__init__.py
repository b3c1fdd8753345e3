"""Wan2.1-T2V: text to video; one transformer of 1.3B or 14B, the VAE of 8x8x4."""
