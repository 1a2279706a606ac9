"""Where images come from, and which classes are used for what."""
