"""Wan2.2-T2V-A14B: text to video; an expert for high noise and one for low, the VAE of 8x8x4."""
