"""Crops and slices, augmented, in their order."""
