"""What a request will cost on which layout: seconds by stage, bytes on the link, memory by rank. Arithmetic only."""
