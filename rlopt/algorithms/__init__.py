"""What every algorithm adds to its Stable-Baselines3 base."""
