"""Bundles: written, imported, evaluated."""
