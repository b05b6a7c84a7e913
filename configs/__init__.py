"""Presets: `<agent>/<suite>/<task>.yaml`, each citing the source of its numbers."""
