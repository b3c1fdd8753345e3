"""Samplers, from noise to a video by a network's predictions: solvers of the flow, and who drives them."""
