"""A whole model as files, and back."""
