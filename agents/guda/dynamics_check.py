"""``check_dynamics``: are augmented transitions what the simulator would have done?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from rlopt.agents.guda.augmentations import Augmentation, Guide
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.generation import PATIENCE, Sources
from rlopt.agents.guda.simulators import EnvSimulator, Simulator
from rlopt.data.dataset import Dataset
from rlopt.errors import AugmentationError, ConfigError, NonFiniteOutcomeError, OutcomeError

QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


class AnyAugmentation(Protocol):
    """What :func:`check_dynamics` needs of an augmentation that is not built from a domain."""

    def augment(self, batch: Batch, generator: np.random.Generator) -> tuple[Batch, np.ndarray]:
        """Augmented transitions, and for each the row of ``batch`` that it was made from."""
        ...


@dataclass(frozen=True)
class DynamicsReport:
    """How far augmented transitions are from the simulator, in units of the observation."""

    errors: np.ndarray
    """[n] float64: largest absolute difference over the observation, for each transition."""
    source_errors: np.ndarray
    """[n]: the same for the recorded transitions that they come from: what the data set itself is worth."""
    reward_errors: np.ndarray
    """[n]: absolute difference of the rewards; empty where the simulator gives none."""
    worst_column: int
    """The number of the observation that is farthest off."""
    tolerance: float
    expected: str | None = None
    """Why the augmentation is known to be approximate; None where it claims to be exact."""

    def quantiles(self) -> dict[str, float]:
        """The 50, 90, 95, 99 and 100 % quantiles of the errors."""
        return {
            f"{100 * q:g}%": float(value)
            for q, value in zip(QUANTILES, np.quantile(self.errors, QUANTILES), strict=True)
        }

    @property
    def share_beyond(self) -> float:
        """Share of the transitions whose error exceeds the tolerance."""
        return float((self.errors > self.tolerance).mean())

    @property
    def exact(self) -> bool:
        """Whether at most 1 % of the transitions exceed the tolerance, and no reward does."""
        wrong_rewards = (self.reward_errors > max(self.tolerance, 1e-6)).mean() if len(self.reward_errors) else 0.0
        return self.share_beyond <= 0.01 and wrong_rewards <= 0.01

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value:.1e}" for name, value in self.quantiles().items())
        lines = [
            f"{len(self.errors)} augmented transitions against the simulator: {'exact' if self.exact else 'NOT exact'}",
            f"  error quantiles      {shown} (worst in column {self.worst_column} of the observation)",
            f"  beyond {self.tolerance:g}         {100 * self.share_beyond:.2f} %",
            f"  recorded transitions median {np.median(self.source_errors):.1e}, "
            f"largest {self.source_errors.max():.1e}",
        ]
        if len(self.reward_errors):
            lines.append(f"  rewards              largest error {self.reward_errors.max():.1e}")
        if self.expected:
            lines.append(f"  known to be approximate: {self.expected}")
        return "\n".join(lines)


def check_dynamics(
    augmentation: Augmentation | AnyAugmentation,
    env: Any,
    dataset: Dataset,
    *,
    set_state: Callable[[Any, np.ndarray], None] | None = None,
    guide: Guide | None = None,
    n: int = 1000,
    seed: int = 0,
    tolerance: float = 1e-6,
    resimulate: bool = True,
    progress: bool = False,
) -> DynamicsReport:
    """Replays augmented transitions in the simulator and measures their errors.

    The simulator is put into the state of each augmented observation, given the augmented action, and its successor and
    reward are compared with the augmented ones. With ``resimulate``, the simulator's own successor, in float64, first
    replaces the recorded one. The errors then measure the augmentation and not the rounding of the recorded numbers,
    which contacts amplify. ``source_errors`` tell how well the recorded transitions themselves replay.

    :param augmentation: an :class:`Augmentation`, or any object with ``augment(batch, generator) -> batch, valid`` for
        single rows
    :param env: None makes the domain's environment; else an environment, or a :class:`Simulator`
    :param set_state: ``set_state(env, observation)``: puts ``env`` into the state of a flat observation; needed for an
        augmentation without a domain, unless ``env`` is a simulator
    :param n: augmented transitions, from 1
    :param tolerance: errors up to this count as rounding
    :param progress: show on stderr how far it is, once it takes longer than 2 s
    :raises AugmentationError: the data set does not fit, or no draw is valid
    :raises ConfigError: no way to set the state, or a value out of range
    :raises rlopt.errors.EnvFaultError: the simulator's environment fails, or it gives successors of another shape,
        NaN or infinity
    """
    if isinstance(n, bool) or n < 1 or not tolerance > 0:
        raise ConfigError(f"n must be at least 1 and the tolerance above 0, got {n} and {tolerance}")
    simulator: Simulator = _simulator(augmentation, env, set_state)
    if progress:
        simulator = _Counted(simulator)
    generator = np.random.default_rng(seed)
    source, moved = _draw(augmentation, dataset, guide, n, generator, simulator if resimulate else None)
    recorded, _ = _simulated(source, simulator)
    following, received = _simulated(moved, simulator)
    if isinstance(simulator, _Counted):
        simulator.shown.close()
    gaps = np.abs(following - moved.next_observations)
    rewards = [abs(own - reward) for own, reward in zip(received, moved.rewards, strict=True) if own is not None]
    return DynamicsReport(
        errors=gaps.max(axis=1),
        source_errors=np.abs(recorded - source.next_observations).max(axis=1),
        reward_errors=np.array(rewards, np.float64),
        worst_column=int(gaps.max(axis=0).argmax()),
        tolerance=tolerance,
        expected=getattr(augmentation, "inexact_because", None),
    )


class _Counted:
    """A simulator that shows on stderr how many transitions it has done."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.shown = tqdm(desc="simulated", unit=" transitions", delay=2, mininterval=1)

    def transition(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        self.shown.update()
        return self.simulator.transition(observation, action)


def _simulator(augmentation: Any, env: Any, set_state: Callable[[Any, np.ndarray], None] | None) -> Simulator:
    if hasattr(env, "transition"):
        simulator: Simulator = env
        return simulator
    domain = getattr(augmentation, "domain", None)
    if set_state is not None:
        return EnvSimulator(env, set_state, domain.keys if domain is not None else ("observation",))
    if domain is None:
        raise ConfigError(
            "check_dynamics cannot set the state of this environment: pass set_state=function(env, observation)"
        )
    made: Simulator = domain.simulator(env)
    return made


def _draw(
    augmentation: Any,
    dataset: Dataset,
    guide: Guide | None,
    n: int,
    generator: np.random.Generator,
    simulator: Simulator | None,
) -> tuple[Batch, Batch]:
    """``n`` recorded transitions as they are and augmented, in float64."""
    pairs: list[tuple[Batch, Batch]] = []
    found = drawn = 0
    sources = Sources(dataset, augmentation, 1) if hasattr(augmentation, "domain") else None
    while found < n:
        recorded = _recorded(dataset, sources, generator, n)
        exact = _resimulated(recorded, simulator) if simulator is not None else recorded
        arguments = (exact, generator) if guide is None else (exact, generator, guide)
        moved, valid = augmentation.augment(*arguments)
        rows = np.flatnonzero(valid)[: n - found]
        pairs.append((_rows(recorded, rows), _rows(moved, rows)))
        found, drawn = found + len(rows), drawn + n
        if drawn >= PATIENCE and found == 0:
            raise AugmentationError(f"{augmentation} gave no valid transition in {drawn:,} draws: nothing to check")
    sides = ([pair[side] for pair in pairs] for side in (0, 1))
    source, moved = (_joined(parts) for parts in sides)
    return source, moved


def _recorded(dataset: Dataset, sources: Sources | None, generator: np.random.Generator, n: int) -> Batch:
    if sources is not None:
        batch = sources.draw(generator, n)[1]
    else:
        if isinstance(dataset.observations, dict) or isinstance(dataset.next_observations, dict):
            raise ConfigError("an augmentation without a domain needs flat observations in the data set")
        rows = generator.integers(0, len(dataset), n)
        batch = Batch(
            dataset.observations[rows],
            dataset.actions[rows],
            dataset.rewards[rows],
            dataset.next_observations[rows],
            dataset.discounts[rows],
        )
    return Batch(*(np.asarray(column, np.float64) for column in _columns(batch)))


def _resimulated(batch: Batch, simulator: Simulator) -> Batch:
    """The same with the simulator's own successors."""
    return Batch(batch.observations, batch.actions, batch.rewards, _simulated(batch, simulator)[0], batch.discounts)


def _simulated(batch: Batch, simulator: Simulator) -> tuple[np.ndarray, list[float | None]]:
    """The simulator's successors [n, d] and rewards [n]."""
    outcomes = [simulator.transition(o, a) for o, a in zip(batch.observations, batch.actions, strict=True)]
    expected = batch.next_observations.shape[1:]
    for following, reward in outcomes:
        if np.shape(following) != expected:
            raise OutcomeError(
                f"the simulator gives observations of shape {np.shape(following)}, the data set has {expected}: make "
                "the two agree"
            )
        if not np.isfinite(following).all() or not np.isfinite(0.0 if reward is None else reward):
            raise NonFiniteOutcomeError(
                "the simulator gives NaN or infinity from one of the states: check set_state and what is augmented"
            )
    return np.array([following for following, _ in outcomes]), [reward for _, reward in outcomes]


def _columns(batch: Batch) -> tuple[np.ndarray, ...]:
    return batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.discounts


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(*(column[rows] for column in _columns(batch)))


def _joined(parts: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(columns) for columns in zip(*(_columns(part) for part in parts), strict=True)))
