"""Ranks that are actors on the nodes of a Ray cluster. Ray places them; that they live is the engine's to see."""
