"""What a number format can hold, and what of a network's values it loses."""
