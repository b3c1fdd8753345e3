"""Networks as data: their layers with parameters, operations and what they keep and send. Arithmetic alone, no torch.

Networks are built from these lists, and plans sum them, so that the two cannot differ.
"""
