"""Replay buffers on the training device."""
