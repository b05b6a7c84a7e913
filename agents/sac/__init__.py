"""Soft actor-critic (Haarnoja et al., arXiv 1812.05905), the base of the off-policy agents."""
