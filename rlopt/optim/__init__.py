"""Optimisers and the gradient step: eager, compiled, captured, several seeds."""
