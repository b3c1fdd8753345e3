"""The networks of Wan, built from the numbers and layers of their card."""
