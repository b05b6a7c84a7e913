"""Peers of ZO-RankSGD in the same ask and tell form, for benchmarks. Loaded when first used; none imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "ARS": "es",
    "CBO": "cbo",
    "CMAES": "cmaes",
    "GLD": "descent",
    "OpenAIES": "es",
    "Peer": "base",
    "ZOSGD": "descent",
}

__all__ = ["ARS", "CBO", "CMAES", "GLD", "ZOSGD", "OpenAIES", "Peer"]

if TYPE_CHECKING:
    from rlopt.agents.zo_ranksgd.comparators.base import Peer
    from rlopt.agents.zo_ranksgd.comparators.cbo import CBO
    from rlopt.agents.zo_ranksgd.comparators.cmaes import CMAES
    from rlopt.agents.zo_ranksgd.comparators.descent import GLD, ZOSGD
    from rlopt.agents.zo_ranksgd.comparators.es import ARS, OpenAIES


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
