"""Safety: who may call us, whom we call for others, and what is taken from outside."""
