"""Encoders and stacked networks."""
