"""ZO-RankSGD: search with rankings only, of returns or of a person (arXiv 2303.03751).

Names are loaded when first used; none of those here imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Outcome": "rlopt.agents.zo_ranksgd.optimizer",
    "Query": "rlopt.agents.zo_ranksgd.query",
    "Ranking": "rlopt.feedback.ranking",
    "ZORankSGD": "rlopt.agents.zo_ranksgd.optimizer",
}

__all__ = ["Outcome", "Query", "Ranking", "ZORankSGD"]

if TYPE_CHECKING:
    from rlopt.agents.zo_ranksgd.optimizer import Outcome, ZORankSGD
    from rlopt.agents.zo_ranksgd.query import Query
    from rlopt.feedback.ranking import Ranking


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
