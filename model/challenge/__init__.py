"""process.py's options and service."""
