"""Code that networks of all families share: how weights are read, and numbers that are not finite."""
