"""Settings of augmentation. Imports no torch.

One set for ``rlopt data augment``, ``rlopt data check`` and training on augmented data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class GuDAConfig:
    """Guided data augmentation."""

    domain: str = "auto"
    """The task whose symmetries are used: pointmaze, antmaze, parking, ball, fetch, or one that an installed
    distribution brings; auto goes by the environment of the data set."""
    guide: str = "default"
    """How the parameters are restricted: shortest-path in mazes, park-at-goal, ball-toward-goal or ball-in-goal,
    reached-goal in Fetch; random draws them uniformly, default is the domain's own guide."""
    n: Annotated[int, Range(ge=1, le=10**9)] = 1_000_000
    """Augmented transitions. Paper: 1 million."""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    """Of everything that is drawn."""
    segment_length: Annotated[int, Range(ge=0)] | None = None
    """Transitions that are moved together; 0 takes whole episodes; default is the domain's own: 8 in mazes and soccer,
    whole drives in parking, 1 in Fetch. Paper: 1 in point mazes, where nothing then tells the next action."""
    simulated: Annotated[float, Range(ge=0, le=1)] | None = None
    """Share of the transitions that the simulator makes: recorded actions from rest, in the open and against walls,
    which moved transitions never touch. Point mazes only; default is 0.2 there. Paper: 0."""
    rotate: Literal["default", "none", "quarter", "any"] = "default"
    """Rotations: by quarter turns or by any angle; default is the domain's own: quarter turns in point mazes, none in
    ant mazes, any in parking and soccer."""
    reflect: bool = False
    """Whether segments are mirrored with probability 1/2, where the domain allows it; soccer always does."""
    goal_cell: tuple[int, ...] | None = None
    """Row and column of the goal in a maze; default is that of the environment, or of each transition where goals
    differ."""
    env: str = ""
    """Environment of the data set, where its own id imports a module, module:Id; default is as the data set says."""
    include_source: bool = False
    """Whether the recorded transitions come first in the result, with a column that tells them apart."""
    method: Literal["guda", "learned-dynamics"] = "guda"
    """learned-dynamics makes the transitions with a model fitted to the data instead: the comparison, point mazes
    only."""
