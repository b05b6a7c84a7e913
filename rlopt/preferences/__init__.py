"""Reward models learned from preferences: fragments and what was said of them, ensembles of models, training on them.

Names are loaded when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
