"""The observed outcomes of every pair, and how much larger than observed their mean may be."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlopt.agents.loop.confidence_sets.counts import require_actions, require_fitting
from rlopt.average_reward.mdp import Array

GRID = 256
"""Rewards nearer to each other than the range of rewards over this are one outcome, with their mean."""
NEWTON_STEPS = 60
"""At most; five to ten are usual."""


class Table(NamedTuple):
    """The outcomes of all pairs as arrays, short rows filled up with outcomes of share 0."""

    shares: Array
    """[N, K] share of the visits of a pair, N = S A; a row without visits is 0."""
    rewards: Array
    """[N, K]."""
    following: npt.NDArray[np.int64]
    """[N, K] next states."""
    visits: Array
    """[N]."""


class Outcomes:
    """Counts of (reward, next state) for each pair of state and action; a step costs constant time.

    :param n_states: S
    :param n_actions: A
    :param reward_range: smallest and largest reward of a step
    """

    def __init__(self, n_states: int, n_actions: int, reward_range: tuple[float, float]) -> None:
        self.n_states, self.n_actions, self.reward_range = n_states, n_actions, reward_range
        low, high = reward_range
        self._steps = GRID / (high - low) if high > low else 0.0
        self.visits = [0] * (n_states * n_actions)
        """Visits of each pair s * A + a."""
        self.of_pair: list[list[int]] = [[] for _ in self.visits]
        """The outcomes of each pair, by their place in the lists below."""
        self.largest_seen = False
        """Whether the largest reward was seen, up to the grid."""
        self._place: dict[int, int] = {}
        self._key: list[int] = []
        self.count: list[int] = []
        self.reward_sum: list[float] = []
        self.target: list[int] = []

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in."""
        pair = state * self.n_actions + action
        self.visits[pair] += 1
        step = int((reward - self.reward_range[0]) * self._steps + 0.5)
        key = (pair * self.n_states + next_state) * (GRID + 2) + min(max(step, 0), GRID + 1)
        place = self._place.get(key)
        if place is None:
            place = self._append(key)
        self.count[place] += 1
        self.reward_sum[place] += reward

    def _append(self, key: int) -> int:
        place = self._place[key] = len(self._key)
        pair, next_state = divmod(key // (GRID + 2), self.n_states)
        self.largest_seen = self.largest_seen or key % (GRID + 2) >= GRID or not self._steps
        self._key.append(key)
        self.count.append(0)
        self.reward_sum.append(0.0)
        self.target.append(next_state)
        self.of_pair[pair].append(place)
        return place

    def row(self, pair: int, values: list[float]) -> tuple[list[float], list[float]]:
        """(shares, reward + value of the next state) of the outcomes of one pair."""
        visits, count, sums, target = self.visits[pair], self.count, self.reward_sum, self.target
        places = self.of_pair[pair]
        return [count[i] / visits for i in places], [sums[i] / count[i] + values[target[i]] for i in places]

    def table(self) -> Table:
        """All outcomes as arrays."""
        pairs, width = len(self.visits), max(max(map(len, self.of_pair)), 1)
        shares, rewards = np.zeros((pairs, width)), np.zeros((pairs, width))
        following = np.zeros((pairs, width), np.int64)
        visits = np.array(self.visits, np.float64)
        lengths = np.array([len(places) for places in self.of_pair])
        places = np.array([place for row in self.of_pair for place in row], np.int64)
        rows = np.repeat(np.arange(pairs), lengths)
        columns = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        counts = np.array(self.count, np.float64)[places]
        shares[rows, columns] = counts / visits[rows]
        rewards[rows, columns] = np.array(self.reward_sum)[places] / counts
        following[rows, columns] = np.array(self.target, np.int64)[places]
        return Table(shares, rewards, following, visits)

    def get_state(self) -> dict[str, Any]:
        """Everything, as arrays."""
        return {
            "outcome_keys": np.array(self._key, np.int64),
            "outcome_counts": np.array(self.count, np.int64),
            "outcome_rewards": np.array(self.reward_sum, np.float64),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave, also that of a class below; raises ValueError if it does not fit."""
        names = ("outcome_keys", "outcome_counts", "outcome_rewards")
        require_fitting(self.get_state(), state, names)
        require_actions(state.get("policy", np.zeros(0, np.int64)), self.n_actions)
        keys, counts, sums = (state[name] for name in names)
        limit = len(self.visits) * self.n_states * (GRID + 2)
        if not len(keys) == len(counts) == len(sums) == len(set(keys.tolist())):
            raise ValueError("outcomes are missing or twice there")
        if len(keys) and (keys.min() < 0 or keys.max() >= limit or counts.min() < 1):
            raise ValueError("outcomes that are not there")
        fresh = Outcomes(self.n_states, self.n_actions, self.reward_range)
        for key in keys.tolist():
            fresh._append(key)
        fresh.count, fresh.reward_sum = counts.tolist(), sums.tolist()
        for pair, places in enumerate(fresh.of_pair):
            fresh.visits[pair] = sum(fresh.count[place] for place in places)
        for name in ("visits", "of_pair", "largest_seen", "_place", "_key", "count", "reward_sum", "target"):
            setattr(self, name, getattr(fresh, name))


class Optimum(NamedTuple):
    """The distribution of the outcomes of each pair with the largest mean that its data allow."""

    shares: Array
    """[N, K] of the outcomes seen."""
    rest: Array
    """[N] of the best outcome there can be, seen or not."""
    mean: Array
    """[N]."""


def largest_means(shares: Array, outcomes: Array, largest: Array, radii: Array) -> Optimum:
    """The largest mean of distributions q on [.., largest] with KL(shares, q) <= radii.

    q is shares / (nu - outcomes), normalised, for a nu > ``largest``; or, where even nu = ``largest`` is within the
    radius, that and the rest of the mass on ``largest`` (Filippi, Cappe and Garivier 2010, section IV; Cappe,
    Garivier, Maillard, Munos and Stoltz 2013, section 6). log(nu - largest) is found by Newton's method, held by
    bisection, to where the divergence is the radius up to rounding.

    :param shares: [N, K]; a row of zeros has no data
    :param outcomes: [N, K] <= largest
    :param largest: [N]
    :param radii: [N] > 0
    """
    short = np.maximum(largest[:, None] - outcomes, 0.0)
    scale = max(float(short.max(initial=0.0)), 1e-300)
    short = np.where(shares > 0, short / scale, 1.0)
    seen = shares.sum(axis=1) > 0
    found, rest = np.zeros_like(shares), np.where(seen, 0.0, 1.0)
    # Outcomes at the largest are put a hair below it, which moves a mean by less than the hair.
    short = np.maximum(short, 1e-13)
    weight = shares / short
    total = weight.sum(axis=1)
    with np.errstate(divide="ignore"):
        limit = np.einsum("nk,nk->n", shares, np.log(short)) + np.log(total)
    jumps = seen & (limit <= radii)
    left = np.exp(limit - radii)[jumps]
    found[jumps] = weight[jumps] * (left / total[jumps])[:, None]
    rest[jumps] = 1.0 - left
    rows = np.flatnonzero(seen & ~jumps)
    if len(rows):
        tilted = shares[rows] / (np.exp(_offsets(shares[rows], short[rows], radii[rows]))[:, None] + short[rows])
        found[rows] = tilted / tilted.sum(axis=1, keepdims=True)
    mean = largest - scale * np.einsum("nk,nk->n", found, np.where(shares > 0, short, 0.0))
    return Optimum(found, rest, mean)


def _offsets(shares: Array, short: Array, radii: Array) -> Array:
    """[N] x with log sum(shares / (e^x + short)) + sum(shares log(e^x + short)) = radii."""
    means = np.einsum("nk,nk->n", shares, short)
    variances = np.einsum("nk,nk->n", shares, (short - means[:, None]) ** 2)
    # Small radii are about variance / (2 (nu - mean)^2).
    x = np.log(np.maximum(np.sqrt(variances / (2.0 * radii)) - means, 1e-6))
    low, high = np.full(len(shares), -40.0), np.full(len(shares), 40.0)
    for _ in range(NEWTON_STEPS):
        gaps = np.exp(x)[:, None] + short
        parts = shares / gaps
        first = parts.sum(axis=1)
        value = np.log(first) + np.einsum("nk,nk->n", shares, np.log(gaps)) - radii
        low, high = np.where(value > 0, x, low), np.where(value > 0, high, x)
        done = (np.abs(value) <= 1e-8 * radii + 1e-14) | (high - low <= 1e-12)
        if done.all():
            break
        # In log-log scale the divergence is nearly a line of slope between -2 and 0.
        slope = np.exp(x) * (first - (parts / gaps).sum(axis=1) / first)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = x - np.log(np.maximum(value + radii, 1e-300) / radii) * (value + radii) / slope
        x = np.where(done, x, np.where((step > low) & (step < high), step, (low + high) / 2))
    return x


def divergence_to_mean(shares: Array, outcomes: Array, largest: float, means: Array) -> Array:
    """[N] K_inf: the smallest KL(shares, q) of the distributions q on [.., largest] with a mean of at least ``means``.

    It is the largest of sum shares log(1 - w + w (largest - outcomes) / (largest - mean)) over w in [0, 1] (Honda and
    Takemura 2010, theorem 8): 0 where the outcomes have that mean already, infinite where no distribution has it.

    :param shares: [N, K], rows that sum up to 1
    :param outcomes: [N, K] <= largest
    :param means: [N]
    """
    room = largest - means
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(shares > 0, np.maximum(largest - outcomes, 0.0) / room[:, None] - 1.0, 0.0)
    found = np.zeros(len(shares))
    found[(room <= 0) & (np.einsum("nk,nk->n", shares, outcomes) < means)] = np.inf
    todo = np.flatnonzero((room > 0) & (np.einsum("nk,nk->n", shares, np.nan_to_num(excess)) > 0))
    if not len(todo):
        return found
    p, z = shares[todo], excess[todo]
    low, high = np.zeros(len(todo)), np.ones(len(todo))
    with np.errstate(divide="ignore"):
        end = np.where(p > 0, z / (1.0 + z), 0.0)
        at_end = np.einsum("nk,nk->n", p, np.maximum(end, -1e300))
    w = np.where(at_end >= 0, 1.0, 0.5)
    for _ in range(NEWTON_STEPS):
        ratio = z / (1.0 + w[:, None] * z)
        slope, bend = np.einsum("nk,nk->n", p, ratio), np.einsum("nk,nk->n", p, ratio * ratio)
        # Another step of Newton's method would add half of slope^2 / bend.
        done = (slope * slope <= 1e-14 * bend) | ((w >= 1.0) & (slope >= 0)) | (high - low <= 1e-15)
        if done.all():
            break
        low, high = np.where(slope > 0, w, low), np.where(slope > 0, high, w)
        step = w + slope / bend
        w = np.where(done, w, np.where((step > low) & (step < high), step, (low + high) / 2))
    found[todo] = np.maximum(np.einsum("nk,nk->n", p, np.log1p(w[:, None] * z)), 0.0)
    return found


def tilted_divergence(shares: list[float], outcomes: list[float], largest: float, mean: float, tilt: float) -> float:
    """A lower bound of K_inf of one pair (:func:`divergence_to_mean`): what is maximised, at w = ``tilt`` in [0, 1)."""
    room = largest - mean
    if room <= 0:
        return 0.0
    slope = tilt / room
    return sum(
        share * math.log(1.0 - tilt + slope * max(largest - outcome, 0.0))
        for share, outcome in zip(shares, outcomes, strict=True)
    )


def pair_divergence(shares: list[float], outcomes: list[float], largest: float, mean: float) -> tuple[float, float]:
    """K_inf of one pair, as :func:`divergence_to_mean` of one row, faster; and the w in [0, 1) that it is found at."""
    room = largest - mean
    if room <= 0:
        short = sum(share * outcome for share, outcome in zip(shares, outcomes, strict=True)) < mean
        return (math.inf if short else 0.0), 0.0
    excess = [max(largest - outcome, 0.0) / room - 1.0 for outcome in outcomes]
    pairs = list(zip(shares, excess, strict=True))
    if sum(p * z for p, z in pairs) <= 0:
        return 0.0, 0.0
    at_end = sum(p * z / (1.0 + z) if z > -1.0 else -1e300 for p, z in pairs)
    low, high, w = 0.0, 1.0, 1.0 if at_end >= 0 else 0.5
    for _ in range(NEWTON_STEPS):
        slope = bend = 0.0
        for p, z in pairs:
            ratio = z / (1.0 + w * z)
            slope += p * ratio
            bend += p * ratio * ratio
        if slope * slope <= 1e-14 * bend or (w >= 1.0 and slope >= 0) or high - low <= 1e-15:
            break
        low, high = (w, high) if slope > 0 else (low, w)
        step = w + slope / bend
        w = step if low < step < high else (low + high) / 2
    return max(sum(p * math.log1p(w * z) for p, z in pairs), 0.0), min(w, 1.0 - 1e-9)
