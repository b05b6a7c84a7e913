"""What a distribution of its own adds to rlopt: an agent, an environment and an augmentation."""
