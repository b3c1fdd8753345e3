"""What all Wan models share: the transformer, the causal VAE, the UMT5 encoder, and the stages of a generation."""
