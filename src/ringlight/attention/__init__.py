"""Attention kernels: one device, no ranks. Each returns its output and the log-sum-exp of its scores."""
