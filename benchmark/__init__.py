"""Speed and memory, measured by commands anyone can run; never asserted in a test."""
