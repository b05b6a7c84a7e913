"""Adversarial imitation learning via boosting (Chang et al., arXiv 2404.08513) and its baselines on the same parts."""
