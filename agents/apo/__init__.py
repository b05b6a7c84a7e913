"""Average-reward policy optimisation (Ma et al., arXiv 2106.03442)."""
