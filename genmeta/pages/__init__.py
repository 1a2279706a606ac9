"""HTML pages that are one file: they open from disk, and nothing in them comes from elsewhere."""
