"""Attention kernels. Each returns its output and the log-sum-exp of its scores."""
