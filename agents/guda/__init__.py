"""GuDA: guided data augmentation for offline reinforcement learning and imitation (arXiv 2310.18247).

Names are loaded when first used; none of them imports torch but those of the learned dynamics.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
