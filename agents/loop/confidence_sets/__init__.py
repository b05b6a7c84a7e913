"""Confidence sets of an unknown process, and the optimistic plans over them."""
