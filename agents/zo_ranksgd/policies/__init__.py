"""Search of a policy's parameters by rankings of its episodes."""
