"""Products of networks as a device computes them fastest: linear maps and convolutions.

Networks say what is computed; how, and how weights lie in memory for it, is decided here, once they are loaded.
"""
