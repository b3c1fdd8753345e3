"""Wan2.1-I2V: a picture and text to video; one transformer, which also attends to tokens of the picture."""
