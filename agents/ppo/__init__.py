"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347), and what on-policy agents share."""
