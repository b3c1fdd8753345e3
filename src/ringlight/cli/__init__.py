"""The commands. They speak to the engine and never import torch."""
