"""GuDA: guided data augmentation for offline reinforcement learning and imitation (arXiv 2310.18247).

Names are loaded when first used; none of them imports torch but those of the learned dynamics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "AntMaze": "maze_domains",
    "Augmentation": "augmentations",
    "BallInGoal": "guides",
    "BallToGoal": "goal_domains",
    "BallToward": "guides",
    "Batch": "batch",
    "Domain": "domains",
    "Fetch": "goal_domains",
    "GuDAConfig": "config",
    "Layout": "domains",
    "LearnedDynamics": "learned_dynamics",
    "ParkAtGoal": "guides",
    "Parking": "goal_domains",
    "PointMaze": "maze_domains",
    "ReachedGoal": "guides",
    "Reflect": "augmentations",
    "RelabelGoal": "augmentations",
    "Rotate": "augmentations",
    "ShortestPath": "guides",
    "Translate": "augmentations",
    "augment": "generation",
    "check_dynamics": "dynamics_check",
    "displacement": "guides",
    "make_augmented": "tasks",
    "with_source": "generation",
}

__all__ = [
    "AntMaze",
    "Augmentation",
    "BallInGoal",
    "BallToGoal",
    "BallToward",
    "Batch",
    "Domain",
    "Fetch",
    "GuDAConfig",
    "Layout",
    "LearnedDynamics",
    "ParkAtGoal",
    "Parking",
    "PointMaze",
    "ReachedGoal",
    "Reflect",
    "RelabelGoal",
    "Rotate",
    "ShortestPath",
    "Translate",
    "augment",
    "check_dynamics",
    "displacement",
    "make_augmented",
    "with_source",
]

if TYPE_CHECKING:
    from rlopt.agents.guda.augmentations import Augmentation, Reflect, RelabelGoal, Rotate, Translate
    from rlopt.agents.guda.batch import Batch
    from rlopt.agents.guda.config import GuDAConfig
    from rlopt.agents.guda.domains import Domain, Layout
    from rlopt.agents.guda.dynamics_check import check_dynamics
    from rlopt.agents.guda.generation import augment, with_source
    from rlopt.agents.guda.goal_domains import BallToGoal, Fetch, Parking
    from rlopt.agents.guda.guides import BallInGoal, BallToward, ParkAtGoal, ReachedGoal, ShortestPath, displacement
    from rlopt.agents.guda.learned_dynamics import LearnedDynamics
    from rlopt.agents.guda.maze_domains import AntMaze, PointMaze
    from rlopt.agents.guda.tasks import make_augmented


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
