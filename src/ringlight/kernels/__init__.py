"""Kernels of networks, as a device runs them fastest: linear maps, convolutions, attention. One device, no ranks.

Networks say what is computed; how, and how weights lie in memory for it, is decided here, once they are loaded.
"""
