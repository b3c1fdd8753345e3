"""The numbers of each network of Wan, and its layers as data."""
