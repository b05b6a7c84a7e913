"""``rlopt data check IN``"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.cli.data_augment import positional
from rlopt.cli.flags import parse_settings
from rlopt.config import Range
from rlopt.errors import ConfigError

PROG = "rlopt data check IN"


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Replay augmented transitions of a data set in the simulator. Exit code 1 if they are not what it does."""

    domain: str = "auto"
    """The task whose symmetries are used, as in rlopt data augment; auto goes by the environment of the data set."""
    guide: str = "random"
    """random, or a guide of rlopt data augment."""
    rotate: Literal["default", "none", "quarter", "any"] = "default"
    """Rotations, as in rlopt data augment."""
    reflect: bool = False
    """Mirror, as in rlopt data augment."""
    goal_cell: tuple[int, ...] | None = None
    """Row and column of the goal in a maze; default is that of the environment."""
    n: Annotated[int, Range(ge=1)] = 1000
    """Transitions to replay."""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    """Of everything that is drawn."""
    tolerance: Annotated[float, Range(gt=0)] = 1e-6
    """Differences up to this count as rounding, in units of the observation."""
    recorded: bool = False
    """Compare with the recorded successors, float32 rounding included, instead of the simulator's own."""


def main(argv: list[str]) -> int:
    """Checks an augmentation of a data set; returns 0 if it is exact and 1 if not."""
    places, flags = positional(argv)
    if any(token in ("-h", "--help") for token in flags):
        parse_settings(PROG, CheckConfig, ["--help"])
    if len(places) != 1:
        raise ConfigError(f"{PROG} takes one data set, got {len(places)}: see --help")
    config: CheckConfig = parse_settings(PROG, CheckConfig, flags)

    from rlopt.agents.guda.config import GuDAConfig
    from rlopt.agents.guda.dynamics_check import check_dynamics
    from rlopt.agents.guda.tasks import set_up
    from rlopt.config import from_mapping
    from rlopt.data import load_dataset

    shared = {name: getattr(config, name) for name in ("domain", "guide", "rotate", "reflect", "goal_cell")}
    dataset = load_dataset(places[0])
    setup = set_up(dataset, from_mapping(GuDAConfig, shared, PROG))
    report = check_dynamics(
        setup.augmentation,
        None,
        dataset,
        guide=setup.guide,
        n=config.n,
        seed=config.seed,
        tolerance=config.tolerance,
        resimulate=not config.recorded,
        progress=True,
    )
    print(f"{setup.augmentation}, {setup.guide or 'uniform parameters'}\n{report}")
    return 0 if report.exact else 1
