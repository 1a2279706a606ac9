"""Plans many runs, carries them out, and writes their results as tables."""
