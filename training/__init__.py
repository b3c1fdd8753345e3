"""The making of the demo checkpoint: a program draws clips, small networks learn them, a judge looks at the result."""
