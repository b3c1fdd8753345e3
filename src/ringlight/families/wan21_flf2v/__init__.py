"""Wan2.1-FLF2V: a first and a last picture, and text, to video; the networks of Wan2.1-I2V."""
