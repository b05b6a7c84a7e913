"""Tasks of our own, registered as rlopt/<name>."""
