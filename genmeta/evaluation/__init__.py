"""Numbers with intervals, and comparisons."""
