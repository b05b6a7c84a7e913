"""DeepLOOP: average reward with optimism and lazy switching for continuous control, inspired by LOOP; experimental."""
