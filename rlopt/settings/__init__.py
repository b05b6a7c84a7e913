"""Typed settings, their ranges, presets. Imports no torch."""
