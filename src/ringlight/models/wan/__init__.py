"""Wan2.2-TI2V: the diffusion transformer, the VAE, the text encoder, and how their weights are read."""
