"""Mirror descent policy optimisation (Tomar et al., arXiv 2005.09814), on- and off-policy."""
