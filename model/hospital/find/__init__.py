"""The studies of a folder or a list."""
