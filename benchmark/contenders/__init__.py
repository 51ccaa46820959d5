"""The ways to run an ensemble that are compared, each in a process of its own."""
