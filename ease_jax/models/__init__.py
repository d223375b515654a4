"""Bodies: one file each, all returning states at the grid's readouts."""
