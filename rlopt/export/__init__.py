"""Policies for other programs: written, and read back."""
