"""One sequence over many ranks. No global state: a mesh is built once per layout and passed."""
