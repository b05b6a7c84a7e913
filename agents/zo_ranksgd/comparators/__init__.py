"""Peers of ZO-RankSGD in the same ask and tell form, for benchmarks."""
