"""rlopt: policy-optimisation methods on Stable-Baselines3 components.

Names are loaded when first used, so ``import rlopt`` is quick and does not import torch.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
