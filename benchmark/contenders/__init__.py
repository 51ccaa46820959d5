"""The ways to run an ensemble that benchmark.inference compares, each in a process of its own."""
