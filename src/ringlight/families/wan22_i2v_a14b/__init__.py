"""Wan2.2-I2V-A14B: a picture and text to video; an expert for high noise and one for low, the VAE of 8x8x4."""
