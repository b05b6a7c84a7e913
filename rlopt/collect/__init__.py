"""Data made by acting: recordings, demonstrations, generated data sets."""
