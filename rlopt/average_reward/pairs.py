"""The form that planners work on: a sparse row of transition rates for each pair of state and action."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

EPSILON = float(np.finfo(np.float64).eps)
Numbers = npt.NDArray[Any]
"""float64, or Fractions in an object array: every function here takes either and is exact for the latter."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A finite process whose states have their own actions, without the probabilities to stay.

    What a state keeps for itself is 1 less the sum of its row. Differences h(t) - h(s) alone enter, and sums of rates
    that nothing is subtracted from, so that a probability of 1e-12 is as accurate as one of 1/2.
    """

    n_states: int
    state: npt.NDArray[np.int64]
    """[m] ascending; every state has a pair."""
    action: npt.NDArray[np.int64]
    """[m]."""
    rewards: Numbers
    """[m], finite."""
    row: npt.NDArray[np.int64]
    """[n] pair of an entry, ascending."""
    column: npt.NDArray[np.int64]
    """[n] next state, another than the pair's own."""
    rate: Numbers
    """[n] > 0, the probability."""

    @property
    def n_pairs(self) -> int:
        """How many pairs there are, m."""
        return len(self.state)

    @property
    def exact(self) -> bool:
        """Whether the numbers are Fractions."""
        return self.rate.dtype == object or self.rewards.dtype == object

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """[S + 1] the first pair of each state, and the number of pairs."""
        return np.searchsorted(self.state, np.arange(self.n_states + 1))

    @cached_property
    def source(self) -> npt.NDArray[np.int64]:
        """[n] the state that an entry leaves."""
        return self.state[self.row]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[m] entries of each pair."""
        return np.bincount(self.row, minlength=self.n_pairs)

    def exactly(self) -> Pairs:
        """The same process in exact arithmetic: every float is the rational number that it is."""
        return replace(self, rewards=fractions(self.rewards), rate=fractions(self.rate))

    def with_rewards(self, rewards: Numbers) -> Pairs:
        """The same transitions with other rewards [m]."""
        return replace(self, rewards=rewards)

    def only(self, kept: npt.NDArray[np.bool_]) -> Pairs:
        """The process in which the pairs ``kept`` [m] alone are possible."""
        entries = kept[self.row]
        index = np.cumsum(kept) - 1
        return Pairs(
            self.n_states,
            self.state[kept],
            self.action[kept],
            self.rewards[kept],
            index[self.row[entries]],
            self.column[entries],
            self.rate[entries],
        )

    def inside(self, states: npt.NDArray[np.int64]) -> Pairs:
        """The process on the ascending ``states``, renumbered; no pair may lead out of them."""
        number = np.full(self.n_states, -1)
        number[states] = np.arange(len(states))
        kept = number[self.state] >= 0
        part = self.only(kept)
        return replace(part, n_states=len(states), state=number[part.state], column=number[part.column])

    def sums(self, values: Numbers) -> Numbers:
        """[m] the sums of what each entry [n] has, over the entries of a pair."""
        return row_sums(self.row, values, self.n_pairs)

    def drift(self, bias: Numbers, rest: Numbers | None = None) -> tuple[Numbers, Numbers]:
        """sum_t P(t | s, a) (h(t) - h(s)) and the same sum of sizes, [m] each.

        :param bias: h [S]
        :param rest: [S] what is to be added to ``bias``, below its last digit
        """
        change = self.rate * difference(bias, rest, self.column, self.source)
        return self.sums(change), self.sums(abs(change))

    def excess(self, gains: Any, bias: Numbers, rest: Numbers | None = None) -> tuple[Numbers, Numbers, Numbers]:
        """r - g + sum_t P(t | s, a) (h(t) - h(s)) with twice the digits of a float; a bound of its error; what the
        rounding of the probabilities to floats may have changed it by: [m] each.

        Terms that nearly cancel, such as those of a state far from where the process is in the long run, so leave what
        is between them and no rounding.

        :param gains: g, a number or [m]
        :param bias: h [S]
        :param rest: [S] what is to be added to ``bias``, below its last digit; None in exact arithmetic
        """
        if self.exact:
            nothing = zeros(self.n_pairs, True)
            return self.rewards - gains + self.drift(bias)[0], nothing, nothing
        below = np.zeros_like(bias) if rest is None else rest
        change, low = _difference(bias, below, self.column, self.source)
        term, error = two_product(self.rate, change)
        unsure = 4 * EPSILON * (abs(self.rewards) + self.sums(abs(term)))
        total, low = _long_sums(self.row, term, error + self.rate * low, self.n_pairs)
        # From the one with the largest terms to the one with the smallest.
        for addend in (self.rewards, -np.asarray(gains, np.float64)):
            total, error = two_sum(total, addend)
            low = low + error
        value = total + low
        sizes = self.sums(self.rate * (abs(bias[self.column]) + abs(bias[self.source])))
        sizes = sizes + abs(self.rewards) + abs(np.asarray(gains, np.float64))
        noise = 2 * EPSILON * abs(value) + 8 * EPSILON**2 * (self.lengths + 8) * sizes
        return value, noise, unsure

    def best(self, values: Numbers) -> npt.NDArray[np.int64]:
        """[S] the first pair of each state whose value [m] is the largest of the state."""
        if values.dtype == object:
            found = np.empty(self.n_states, np.int64)
            for state in range(self.n_states):
                first, end = self.starts[state], self.starts[state + 1]
                found[state] = first + max(range(end - first), key=values[first:end].tolist().__getitem__)
            return found
        largest = np.maximum.reduceat(values, self.starts[:-1])
        hits = np.flatnonzero(values == largest[self.state])
        found = np.full(self.n_states, -1)
        found[self.state[hits[::-1]]] = hits[::-1]
        return found

    def chain(self, chosen: npt.NDArray[np.int64]) -> Pairs:
        """The process in which each state has its pair of ``chosen`` [S] alone."""
        kept = np.zeros(self.n_pairs, bool)
        kept[chosen] = True
        return self.only(kept)


def fractions(values: Numbers) -> Numbers:
    """Floats as the rational numbers that they are, in an object array."""
    found = np.empty(len(values), object)
    found[:] = [Fraction(value) for value in values.tolist()]
    return found


def zeros(count: int, exact: bool) -> Numbers:
    """[count] zeros, Fractions if ``exact``."""
    return fractions(np.zeros(count)) if exact else np.zeros(count)


def row_sums(row: npt.NDArray[np.int64], values: Numbers, count: int) -> Numbers:
    """[count] the sum of the ``values`` of each row."""
    if values.dtype != object:
        return np.bincount(row, values, minlength=count)
    found = zeros(count, True)
    np.add.at(found, row, values)
    return found


def difference(
    values: Numbers, rest: Numbers | None, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> Numbers:
    """values[first] - values[second], where ``values + rest`` has twice the digits of a float."""
    if rest is None:
        return values[first] - values[second]
    total, low = _difference(values, rest, first, second)
    return total + low


def _difference(
    values: Numbers, rest: Numbers, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> tuple[Numbers, Numbers]:
    total, error = two_sum(values[first], -values[second])
    return total, error + (rest[first] - rest[second])


def two_sum(a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    """a + b as a float, and what its rounding took away (Knuth)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def two_product(a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    """a b as a float, and what its rounding took away (Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(values: Numbers) -> tuple[Numbers, Numbers]:
    scaled = 134217729.0 * values  # 2^27 + 1
    high = scaled - (scaled - values)
    return high, values - high


def _long_sums(row: npt.NDArray[np.int64], high: Numbers, low: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """[count] the sums of ``high + low`` over each of the ascending rows, with twice the digits: by halves."""
    while len(row) > 1 and (row[1:] == row[:-1]).any():
        begins = np.concatenate([[True], row[1:] != row[:-1]])
        place = np.arange(len(row))
        place -= np.maximum.accumulate(np.where(begins, place, 0))
        kept = np.flatnonzero(place % 2 == 0)
        followed = kept[kept + 1 < len(row)]
        followed = followed[row[followed + 1] == row[followed]]
        total, error = two_sum(high[followed], high[followed + 1])
        high[followed], low[followed] = total, low[followed] + low[followed + 1] + error
        row, high, low = row[kept], high[kept], low[kept]
    found, rest = np.zeros(count), np.zeros(count)
    found[row], rest[row] = high, low
    return found, rest


def add(values: Numbers, rest: Numbers, correction: Numbers | float) -> tuple[Numbers, Numbers]:
    """``values + rest + correction`` again as a sum of a float and what lies below its last digit."""
    return two_sum(values, rest + correction)
