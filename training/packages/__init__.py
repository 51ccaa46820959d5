"""Bundles for other platforms: MONAI, MHub."""
