"""Training: the grid loss, the update and the loop around it."""
