"""Arrays and JSON on disk: atomic, checksummed, nothing executed."""
