"""Peers of ZO-RankSGD in the same ask and tell form, for benchmarks. Loaded when first used; none imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
