"""The networks, their forward passes, and their weights."""
