"""GuDA: guided data augmentation for offline reinforcement learning and imitation (arXiv 2310.18247)."""
