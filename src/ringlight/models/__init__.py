"""What networks share, whatever their family: how weights are read, and numbers that are not finite."""
