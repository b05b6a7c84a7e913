"""The exact state of one environment, and back."""
