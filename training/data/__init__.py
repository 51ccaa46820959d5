"""Data sets: index, split, cache."""
