"""Where the ranks of a replica come from."""
