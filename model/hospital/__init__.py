"""score.py's batches."""
