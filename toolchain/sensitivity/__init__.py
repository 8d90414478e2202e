"""How much each layer of a network matters: it alone is pruned or quantized, and nothing is trained afterwards."""
