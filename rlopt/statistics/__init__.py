"""Aggregates, intervals and sample sizes. Needs numpy only."""
