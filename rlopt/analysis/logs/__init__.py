"""Logs that other libraries wrote, read as learning curves: a file for each kind, ``read`` to find and choose them."""
