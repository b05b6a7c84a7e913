"""Settings of agents that learn from demonstrations, alone or besides rewards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rlopt.settings.fields import Range


@dataclass(frozen=True, kw_only=True)
class OptionalDemonstrations:
    """Settings of every agent that can learn from demonstrations."""

    other_names: ClassVar[Mapping[str, str]] = {"dataset": "demos"}
    needs_demos: ClassVar[bool] = False
    """Whether it learns from nothing else."""
    normalizes_itself: ClassVar[bool] = False
    """Whether it normalises observations by those of the demonstrations."""

    demos: str = ""
    """Demonstrations to learn from: a folder that rlopt wrote, an npz or parquet file, minari:ID, or the name of a
    shipped set; --dataset means the same. Imitation learners require them."""
    n_demos: Annotated[int, Range(ge=1)] | None = None
    """Number of episodes to learn from, the first ones; default is all."""
    subsample: Annotated[int, Range(ge=1)] = 1
    """Keep every n-th transition of each episode, and every true end. GAIL and DAC: 20 on MuJoCo."""

    @staticmethod
    def learner_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments without those that say where demonstrations come from."""
        kept = {name: value for name, value in kwargs.items() if name not in ("demos", "subsample", "n_demos")}
        return kept | ({"n_demonstrations": kwargs["n_demos"]} if "n_demos" in kwargs else {})


@dataclass(frozen=True, kw_only=True)
class DemonstrationConfig(OptionalDemonstrations):
    """Settings of every agent that learns from demonstrations alone."""

    needs_demos: ClassVar[bool] = True
    reward_centring: ClassVar[bool] = False  # no setting where rewards are learned, as the next
    centring_rate: ClassVar[float] = 1e-3
