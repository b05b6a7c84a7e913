"""The agent's settings and its entry. Imports no torch, so that ``rlopt train --help`` is quick."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from rlopt.registry import AgentSpec
from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class RWRConfig:
    """Reward-weighted regression, on-policy."""

    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Step size of Adam, > 0."""
    n_steps: Annotated[int, Range(ge=2)] = 256
    """Steps per environment and rollout, >= 2."""
    n_epochs: Annotated[int, Range(ge=1)] = 4
    """Passes over each rollout, >= 1."""
    temperature: Annotated[float, Range(gt=0)] = 1.0
    """An action is weighted by exp(advantage / this), the advantages of a rollout in units of their deviation, > 0."""
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount, in [0, 1]."""

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The constructor arguments of the agent's class."""
        return asdict(self)


SPEC = AgentSpec(
    config="rlopt_example.agent:RWRConfig",
    algorithm="rlopt_example.algorithm:RWR",
    summary="reward-weighted regression, on-policy",
)
