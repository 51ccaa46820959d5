"""The papers' experiments and the shipped weights' procedure."""
