"""rlopt: policy-optimisation methods on Stable-Baselines3 components.

Names are loaded when first used, so ``import rlopt`` is quick and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "MDPO": "rlopt.agents.mdpo.on_policy",
    "OffPolicyMDPO": "rlopt.agents.mdpo.off_policy",
    "SAC": "rlopt.agents.sac.algorithm",
    "AILBoost": "rlopt.agents.ailboost.algorithm",
    "DAC": "rlopt.agents.ailboost.algorithm",
    "GAIL": "rlopt.agents.imitation.gail",
    "SQIL": "rlopt.agents.imitation.sqil",
    "IQLearn": "rlopt.agents.imitation.iq_learn",
    "ValueDICE": "rlopt.agents.imitation.value_dice",
    "BC": "rlopt.agents.offline.bc",
    "TD3BC": "rlopt.agents.offline.td3_bc",
    "AWAC": "rlopt.agents.offline.awac",
    "IQL": "rlopt.agents.offline.iql",
    "CQL": "rlopt.agents.offline.cql",
    "ReBRAC": "rlopt.agents.offline.rebrac",
    "LOOP": "rlopt.agents.loop.loop",
    "LinearLOOP": "rlopt.agents.loop.linear_loop",
    "LatentSearch": "rlopt.agents.zo_ranksgd.latent_search",
    "DeepLOOP": "rlopt.agents.deep_loop.algorithm",
    "MLELOOP": "rlopt.agents.loop.mle_loop",
    "ZORankSGD": "rlopt.agents.zo_ranksgd.optimizer",
    "RankedPolicySearch": "rlopt.agents.zo_ranksgd.policy_search",
    "make_env": "rlopt.envs.make",
    "load": "rlopt.loading",
    "evaluate": "rlopt.evaluation",
    "load_policy": "rlopt.exported",
}

__all__ = [
    "AWAC",
    "BC",
    "CQL",
    "DAC",
    "GAIL",
    "IQL",
    "LOOP",
    "MDPO",
    "MLELOOP",
    "SAC",
    "SQIL",
    "TD3BC",
    "AILBoost",
    "DeepLOOP",
    "IQLearn",
    "LatentSearch",
    "LinearLOOP",
    "OffPolicyMDPO",
    "RankedPolicySearch",
    "ReBRAC",
    "ValueDICE",
    "ZORankSGD",
    "__version__",
    "evaluate",
    "load",
    "load_policy",
    "make_env",
]

if TYPE_CHECKING:
    from rlopt.agents.ailboost.algorithm import DAC, AILBoost
    from rlopt.agents.deep_loop.algorithm import DeepLOOP
    from rlopt.agents.imitation.gail import GAIL
    from rlopt.agents.imitation.iq_learn import IQLearn
    from rlopt.agents.imitation.sqil import SQIL
    from rlopt.agents.imitation.value_dice import ValueDICE
    from rlopt.agents.loop.linear_loop import LinearLOOP
    from rlopt.agents.loop.loop import LOOP
    from rlopt.agents.loop.mle_loop import MLELOOP
    from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
    from rlopt.agents.mdpo.on_policy import MDPO
    from rlopt.agents.offline.awac import AWAC
    from rlopt.agents.offline.bc import BC
    from rlopt.agents.offline.cql import CQL
    from rlopt.agents.offline.iql import IQL
    from rlopt.agents.offline.rebrac import ReBRAC
    from rlopt.agents.offline.td3_bc import TD3BC
    from rlopt.agents.sac.algorithm import SAC
    from rlopt.agents.zo_ranksgd.latent_search import LatentSearch
    from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
    from rlopt.agents.zo_ranksgd.policy_search import RankedPolicySearch
    from rlopt.envs.make import make_env
    from rlopt.evaluation import evaluate
    from rlopt.exported import load_policy
    from rlopt.loading import load


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module 'rlopt' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted(__all__)
