"""The exact state of one thing (network, generator, environment) as arrays, and back."""
