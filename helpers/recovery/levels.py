"""What one unit does: by level of activation, and what it is made of."""
