"""Unbiased episodes of a policy: returns, gain, videos; in this process or on an engine."""
