"""Exit-consistent evaluation: passes, thresholds, sweep and results."""
