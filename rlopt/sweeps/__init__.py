"""Many training runs as jobs: grids, searches, their tables."""
