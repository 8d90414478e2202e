"""Layer blame: which layer of a quantized file costs the answers most, why, and what to write into the recipe."""
