"""score.py: many studies, offline."""
