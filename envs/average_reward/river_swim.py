"""RiverSwim: a chain whose good bank is reached only by swimming against the current for long."""

from dataclasses import dataclass

import numpy as np

from rlopt.average_reward.linear_models import LinearMDP, LinearMixtureMDP
from rlopt.average_reward.mdp import Array
from rlopt.envs.average_reward.finite import FiniteEnv, Outcome
from rlopt.errors import ConfigError, unknown_name

LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Kernel:
    """What swimming right does: probabilities, each triple (back, stay, forward)."""

    first: tuple[float, float]
    """Stay, forward at the left bank."""
    middle: tuple[float, float, float]
    last: tuple[float, float]
    """Back, stay at the right bank."""
    left_reward: float
    """For swimming left at the left bank."""
    only_if_stays: bool
    """Whether the reward 1 at the right bank is paid only in steps that stay there."""
    start: tuple[float, ...] = (1.0,)
    """Probabilities of the first states, from the left."""


KERNELS: dict[str, Kernel] = {
    # Osband, Russo and Van Roy, (More) efficient reinforcement learning via posterior sampling, 2013, figure 1.
    "osband": Kernel((0.4, 0.6), (0.05, 0.6, 0.35), (0.4, 0.6), 0.005, False),
    # Strehl and Littman, An analysis of model-based interval estimation, 2008; rewards 5 and 10000, over 10000 here.
    "strehl_littman": Kernel((0.7, 0.3), (0.1, 0.6, 0.3), (0.7, 0.3), 0.0005, True, (0.0, 0.5, 0.5)),
    # A gentle current, used with differential methods (Wan, Naik and Sutton 2021): chance finds the right bank.
    "gentle": Kernel((0.1, 0.9), (0.05, 0.05, 0.9), (0.05, 0.95), 0.005, True),
}
"""Three kernels go by the name RiverSwim in the literature: results are comparable only on the same one."""


class RiverSwim(FiniteEnv):
    """``rlopt/RiverSwim-v0``. Action 0 swims left, one state back for certain; action 1 swims right.

    :param n_states: length of the river, at least 3
    :param kernel: ``osband`` (the default), ``strehl_littman`` or ``gentle``; see :data:`KERNELS`
    """

    def __init__(self, n_states: int = 6, kernel: str = "osband") -> None:
        outcomes = river_outcomes(n_states, kernel)
        first = KERNELS[kernel].start
        super().__init__(outcomes, start=np.pad(np.array(first), (0, n_states - len(first))))


def river_outcomes(n_states: int, kernel: str) -> list[list[list[Outcome]]]:
    """What can happen in every state and action; raises :class:`rlopt.errors.ConfigError` for a bad argument."""
    if type(n_states) is not int or n_states < 3:
        raise ConfigError(f"n_states is {n_states!r}: give a whole number of at least 3")
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    k, last = KERNELS[kernel], n_states - 1
    away = 0.0 if k.only_if_stays else 1.0
    outcomes: list[list[list[Outcome]]] = []
    for s in range(n_states):
        left: list[Outcome] = [(1.0, max(s - 1, 0), k.left_reward if s == 0 else 0.0)]
        if s == 0:
            right: list[Outcome] = [(k.first[0], 0, 0.0), (k.first[1], 1, 0.0)]
        elif s == last:
            right = [(k.last[0], last - 1, away), (k.last[1], last, 1.0)]
        else:
            right = [(p, s + move, 0.0) for p, move in zip(k.middle, (-1, 0, 1), strict=True)]
        outcomes.append([left, right])
    return outcomes


MIXTURE_WEIGHTS = (0.35, 0.25, 0.05, 0.25, 0.1)


class MixtureRiverSwim(FiniteEnv):
    """``rlopt/MixtureRiverSwim-v0``: the osband river as a linear mixture of five known kernels.

    They agree on swimming left. For swimming right, kernel 0 goes forward; 1 stays; 2 goes back; 3 goes forward at the
    left bank, back at the right bank, and stays between; 4 goes back at the right bank and stays elsewhere. The weights
    .35, .25, .05, .25, .1 give exactly the kernel ``osband``. ``mdp`` is a
    :class:`rlopt.average_reward.LinearMixtureMDP`.

    :param n_states: at least 3
    """

    def __init__(self, n_states: int = 6) -> None:
        river = FiniteEnv(river_outcomes(n_states, "osband")).mdp
        kernels = mixture_kernels(n_states)
        super().__init__(mdp=LinearMixtureMDP.of(kernels, MIXTURE_WEIGHTS, river.r, (0.0, 1.0)))
        self.mdp: LinearMixtureMDP


def mixture_kernels(n_states: int) -> Array:
    """[5, S, 2, S], the kernels of :class:`MixtureRiverSwim`."""
    kernels, last = np.zeros((5, n_states, 2, n_states)), n_states - 1
    for s in range(n_states):
        back, ahead = max(s - 1, 0), min(s + 1, last)
        kernels[:, s, LEFT, back] = 1.0
        ends = ahead if s == 0 else back if s == last else s
        for k, target in enumerate((ahead, s, back, ends, back if s == last else s)):
            kernels[k, s, RIGHT, target] = 1.0
    return kernels


class AggregatedRiverSwim(FiniteEnv):
    """``rlopt/AggregatedRiverSwim-v0``: a linear process; states are softly aggregated into places of a river.

    State s belongs to the place s // members. The d = 2 n_places features of (s, a) are the probabilities with which
    it behaves like each pair of place and action: 1 - ``mixing`` for its own, the rest by a Dirichlet draw over all
    pairs. A pair leads to the next places of the kernel ``osband``, and there to each member alike. ``mdp`` is a
    :class:`rlopt.average_reward.LinearMDP`.

    :param n_places: at least 3
    :param members: states of a place, at least 1
    :param mixing: in [0, 1)
    :param seed: seed of the mixing features, not of the transitions
    """

    def __init__(self, n_places: int = 6, members: int = 5, mixing: float = 0.1, seed: int = 0) -> None:
        if type(members) is not int or members < 1 or not 0 <= mixing < 1:
            raise ConfigError(f"members is {members!r} and mixing {mixing!r}: give at least 1, and a number in [0, 1)")
        river = FiniteEnv(river_outcomes(n_places, "osband")).mdp
        dimension, size = 2 * n_places, n_places * members
        own = np.zeros((size, 2, dimension))
        for state in range(size):
            for action in (LEFT, RIGHT):
                own[state, action, 2 * (state // members) + action] = 1.0
        others = np.random.default_rng(seed).dirichlet(np.ones(dimension), size=(size, 2))
        measures = np.repeat(river.P.reshape(dimension, n_places), members, axis=1) / members
        features = (1 - mixing) * own + mixing * others
        super().__init__(mdp=LinearMDP.of(features, measures, river.r.reshape(-1), (0.0, 1.0)))
        self.mdp: LinearMDP


class RandomLinear(FiniteEnv):
    """``rlopt/RandomLinear-v0``: a random linear process; features, measures and rewards drawn by ``seed``.

    Features are Dirichlet draws on the simplex, measures Dirichlet draws over states, reward weights uniform in [0, 1].
    The process is easy to explore, so success on it is no evidence of good exploration. ``mdp`` is a
    :class:`rlopt.average_reward.LinearMDP`.
    """

    def __init__(self, n_states: int = 20, n_actions: int = 4, dimension: int = 8, seed: int = 0) -> None:
        if min(n_states, n_actions, dimension) < 1:
            raise ConfigError("n_states, n_actions and dimension must be at least 1")
        rng = np.random.default_rng(seed)
        features = rng.dirichlet(np.full(dimension, 0.3), size=(n_states, n_actions))
        measures = rng.dirichlet(np.full(n_states, 0.3), size=dimension)
        super().__init__(mdp=LinearMDP.of(features, measures, rng.uniform(size=dimension), (0.0, 1.0)))
        self.mdp: LinearMDP
