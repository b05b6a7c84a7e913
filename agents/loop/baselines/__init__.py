"""Peers of LOOP for average reward, behind the same interface. Names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "DifferentialQ": "q_learning",
    "FOPO": "fopo",
    "OLSVIFH": "olsvi",
    "OptimisticQ": "optimistic_q",
    "RVIQ": "q_learning",
    "TSDE": "tsde",
    "UCRL2": "ucrl2",
}

__all__ = ["FOPO", "OLSVIFH", "RVIQ", "TSDE", "UCRL2", "DifferentialQ", "OptimisticQ"]

if TYPE_CHECKING:
    from rlopt.agents.loop.baselines.fopo import FOPO
    from rlopt.agents.loop.baselines.olsvi import OLSVIFH
    from rlopt.agents.loop.baselines.optimistic_q import OptimisticQ
    from rlopt.agents.loop.baselines.q_learning import RVIQ, DifferentialQ
    from rlopt.agents.loop.baselines.tsde import TSDE
    from rlopt.agents.loop.baselines.ucrl2 import UCRL2


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
