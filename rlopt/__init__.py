"""rlopt: policy-optimisation methods on Stable-Baselines3 components.

Names are loaded when first used, so ``import rlopt`` is quick and does not import torch.
"""

import lazy_loader

__version__ = "0.2.0"
_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

_ELSEWHERE = {
    **dict.fromkeys(("A2C", "DDPG", "DQN", "HerReplayBuffer", "TD3"), "stable_baselines3"),
    **dict.fromkeys(("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO"), "sb3_contrib"),
}


def __getattr__(name: str) -> object:
    if name in __all__ or name.startswith("_"):
        return _lazy(name)
    try:
        return _lazy(name)
    except AttributeError:
        from rlopt.errors import nearest

        library = _ELSEWHERE.get(name)
        advice = f"use {library}.{name}" if library else nearest(name, __all__)
        raise AttributeError(f"rlopt has no {name}: {advice}") from None
