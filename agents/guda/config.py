"""Settings of augmentation. Imports no torch.

One set for ``rlopt data augment``, ``rlopt data check`` and training on augmented data.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class GuDAConfig:
    """Guided data augmentation."""

    domain: str = "auto"
    """Task whose symmetries are used: pointmaze, antmaze, parking, ball, fetch, or one of an installed package; auto
    takes the task of the data set's environment."""
    guide: str = "default"
    """Guide that chooses the parameters: shortest-path in mazes, park-at-goal in parking, ball-toward-goal or
    ball-in-goal in soccer, reached-goal in Fetch; random draws them uniformly, and default is the domain's own
    guide."""
    n: Annotated[int, Range(ge=1, le=10**9)] = 1_000_000
    """Augmented transitions. Paper: 1 million."""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    """Seed of all random draws."""
    segment_length: Annotated[int, Range(ge=0)] | None = None
    """Transitions that are moved together; 0 takes whole episodes; default is the domain's own: 8 in mazes and soccer,
    whole drives in parking, 1 in Fetch. Paper: 1 in point mazes, which leaves the next action unknown."""
    simulated: Annotated[float, Range(ge=0, le=1)] | None = None
    """Share of the transitions that the simulator makes: recorded actions from rest, in the open and against walls,
    which moved transitions never touch. Point mazes only; default is 0.2 there. Paper: 0."""
    rotate: Literal["default", "none", "quarter", "any"] = "default"
    """Rotations: by quarter turns or by any angle; default is the domain's own: quarter turns in point mazes, none in
    ant mazes, any in parking and soccer."""
    reflect: bool = False
    """Whether segments are mirrored with probability 1/2, where the domain allows it; soccer always does."""
    goal_cell: tuple[int, ...] | None = None
    """Row and column of the goal in a maze; default is the environment's goal, or each transition's own if goals
    differ."""
    env: str = ""
    """Environment of the data set, to be given as module:Id if its id imports a module; default is the one that the
    data set names."""
    include_source: bool = False
    """Whether the recorded transitions come first in the result, marked by a column."""
    method: Literal["guda", "learned-dynamics"] = "guda"
    """Source of the transitions: symmetries (guda), or the baseline, a model fitted to the data (learned-dynamics,
    point mazes only)."""
