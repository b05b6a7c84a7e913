"""ZO-RankSGD: search with rankings only, of returns or of a person (arXiv 2303.03751).

Names are loaded when first used; none of those here imports torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
