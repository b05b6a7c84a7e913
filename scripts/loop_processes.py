"""The processes on which LOOP and its peers are compared, as environments that know their exact solution."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them
from rlopt.average_reward import LinearMixtureMDP, relative_value_iteration
from rlopt.envs.average_reward import FiniteEnv

Outcome = tuple[float, int, float]


def bandit() -> FiniteEnv:
    """Five Bernoulli arms."""
    return FiniteEnv([[[(p, 0, 1.0), (1 - p, 0, 0.0)] for p in (0.3, 0.4, 0.5, 0.55, 0.6)]])


def six_arms() -> FiniteEnv:
    """SixArms (Strehl and Littman 2004), rewards over 6000."""
    chances, pays = (1.0, 0.15, 0.1, 0.05, 0.03, 0.01), (50, 133, 300, 800, 1660, 6000)
    centre = [[(p, arm + 1, 0.0), (1 - p, 0, 0.0)] for arm, p in enumerate(chances)]
    rooms = [
        [[(1.0, arm + 1, pay / 6000)] if action == arm else [(1.0, 0, 0.0)] for action in range(6)]
        for arm, pay in enumerate(pays)
    ]
    return FiniteEnv([centre, *rooms])


def admission_queue(size: int = 10, arrival: float = 0.4, service: float = 0.5) -> FiniteEnv:
    """Admit (5) or reject a customer; each one present costs 1 a step."""
    rows: list[list[list[Outcome]]] = []
    for waiting in range(size + 1):
        row = []
        for admit in (False, True):
            taken = admit and waiting < size
            row.append(
                [
                    (arrival, waiting + taken, 5.0 * taken - waiting),
                    (service, max(waiting - 1, 0), -float(waiting)),
                    (1 - arrival - service, waiting, -float(waiting)),
                ]
            )
        rows.append(row)
    return FiniteEnv(rows)


def garnet(states: int, actions: int, branches: int, seed: int, noisy: bool) -> FiniteEnv:
    """A random process (Archibald, McKinnon and Thomas 1995); ``noisy`` pays 0 or 1 with the mean that it has."""
    rng = np.random.default_rng(seed)
    rows: list[list[list[Outcome]]] = []
    for _ in range(states):
        row = []
        for _ in range(actions):
            targets, shares = rng.choice(states, branches, replace=False), rng.dirichlet(np.ones(branches))
            mean = float(rng.random())
            pays = ((mean, 1.0), (1 - mean, 0.0)) if noisy else ((1.0, mean),)
            row.append([(share * p, int(t), pay) for t, share in zip(targets, shares, strict=True) for p, pay in pays])
        rows.append(row)
    return FiniteEnv(rows)


def frozen_lake() -> FiniteEnv:
    """Gymnasium's slippery lake of 4 by 4; holes and the goal lead to the start."""
    lake: Any = gymnasium.make("FrozenLake-v1").unwrapped
    return FiniteEnv(
        [
            [[(p, 0 if done else int(t), float(r)) for p, t, r, done in lake.P[s][a]] for a in range(4)]
            for s in range(16)
        ]
    )


def taxi(size: int = 3) -> FiniteEnv:
    """A small taxi with Gymnasium's rewards and two stands; a delivery is followed by the next passenger."""
    stands = ((0, 0), (size - 1, size - 1))
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))

    def index(row: int, column: int, passenger: int, goal: int) -> int:
        return ((row * size + column) * 3 + passenger) * 2 + goal

    rows: list[list[list[Outcome]]] = []
    for row in range(size):
        for column in range(size):
            for passenger in range(3):
                for goal in range(2):
                    here, place = index(row, column, passenger, goal), (row, column)
                    outcomes: list[list[Outcome]] = []
                    for down, right in moves:
                        r, c = min(max(row + down, 0), size - 1), min(max(column + right, 0), size - 1)
                        outcomes.append([(1.0, index(r, c, passenger, goal), -1.0)])
                    can_take = passenger < 2 and stands[passenger] == place
                    outcomes.append([(1.0, index(row, column, 2, goal), -1.0) if can_take else (1.0, here, -10.0)])
                    if passenger == 2 and stands[goal] == place:
                        following = [(i, j) for i in range(2) for j in range(2)]
                        outcomes.append([(0.25, index(row, column, i, j), 20.0) for i, j in following])
                    else:
                        outcomes.append([(1.0, here, -10.0)])
                    rows.append(outcomes)
    return FiniteEnv(rows)


def machine_replacement(levels: int = 10) -> FiniteEnv:
    """Keep a machine, which works with a probability that falls with its wear, or lose a step to replace it."""
    rows: list[list[list[Outcome]]] = []
    for wear in range(levels):
        works = 1 - (wear / (levels - 1)) ** 2
        keep = [
            (share * p, min(wear + more, levels - 1), pay)
            for more, share in ((0, 0.4), (1, 0.4), (2, 0.2))
            for p, pay in ((works, 1.0), (1 - works, 0.0))
        ]
        rows.append([keep, [(1.0, 0, 0.0)]])
    return FiniteEnv(rows)


def two_islands(delta: float = 0.02) -> FiniteEnv:
    """Two states; in one of them one of five actions is slightly more likely to lead to the paying one."""
    leave = [[(delta + (0.02 if arm == 3 else 0.0), 1, 0.0)] for arm in range(5)]
    first = [[*out, (1 - out[0][0], 0, 0.0)] for out in leave]
    return FiniteEnv([first, [[(delta, 0, 1.0), (1 - delta, 1, 1.0)] for _ in range(5)]])


def mixture_garnet(states: int = 20, actions: int = 4, kernels: int = 5) -> FiniteEnv:
    """A mixture of random kernels, with known rewards."""
    parts = [garnet(states, actions, 3, seed, noisy=False).mdp for seed in range(10, 10 + kernels)]
    weights = np.random.default_rng(10).dirichlet(np.ones(kernels))
    return FiniteEnv(mdp=LinearMixtureMDP.of(np.stack([part.P for part in parts]), weights, parts[0].r, (0.0, 1.0)))


def _registered(name: str, **kwargs: Any) -> Callable[[], Any]:
    return lambda: gymnasium.make(name, **kwargs).unwrapped


PROCESSES: dict[str, Callable[[], Any]] = {
    "RiverSwim-6": _registered("rlopt/RiverSwim-v0", n_states=6),
    "RiverSwim-12": _registered("rlopt/RiverSwim-v0", n_states=12),
    "RiverSwim-20": _registered("rlopt/RiverSwim-v0", n_states=20),
    "SixArms": six_arms,
    "AccessControl": _registered("rlopt/AccessControl-v0"),
    "ServerAllocation": _registered("rlopt/ServerAllocation-v0"),
    "AdmissionQueue": admission_queue,
    "Garnet-20": lambda: garnet(20, 4, 3, 3, noisy=False),
    "Garnet-20-noisy": lambda: garnet(20, 4, 3, 4, noisy=True),
    "Garnet-50": lambda: garnet(50, 3, 3, 5, noisy=True),
    "FrozenLake": frozen_lake,
    "Taxi-3": taxi,
    "MachineReplacement": machine_replacement,
    "TwoIslands": two_islands,
    "Bandit-5": bandit,
}
NAMES: Sequence[str] = tuple(PROCESSES)
STRUCTURED: dict[str, Callable[[], Any]] = {
    "AggregatedRiverSwim-6": _registered("rlopt/AggregatedRiverSwim-v0"),
    "AggregatedRiverSwim-12": _registered("rlopt/AggregatedRiverSwim-v0", n_places=12, members=3),
    "RandomLinear": _registered("rlopt/RandomLinear-v0"),
    "MixtureRiverSwim-6": _registered("rlopt/MixtureRiverSwim-v0"),
    "MixtureRiverSwim-12": _registered("rlopt/MixtureRiverSwim-v0", n_states=12),
    "MixtureGarnet-20": mixture_garnet,
}
"""Linear in features (``mdp.features``), or mixtures of known kernels (``mdp.kernels``)."""


def make(name: str) -> Any:
    """The process ``name``, solved."""
    env = (PROCESSES | STRUCTURED)[name]()
    env.mdp.__dict__["solution"] = relative_value_iteration(env.mdp)
    return env
