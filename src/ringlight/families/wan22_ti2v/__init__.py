"""Wan2.2-TI2V: text, or text and a first frame, to video; one transformer, the VAE of 16x16x4."""
