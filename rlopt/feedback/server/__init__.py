"""The web server of a ranking study."""
