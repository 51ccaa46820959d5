"""Synthetic studies."""
