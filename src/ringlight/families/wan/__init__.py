"""Parts that all Wan models share: the transformer, the causal VAE, the UMT5 encoder, the stages of a generation."""
