"""LOOP: optimism with few policy switches in tasks that never end (average reward)."""
