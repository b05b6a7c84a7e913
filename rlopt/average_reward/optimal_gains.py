"""The optimal gain of every state with proved bounds: within each end component, then over which of them to end in."""

from dataclasses import dataclass

import numpy as np

from rlopt.average_reward.chain_values import ChainValues, absorbed_values, chain_values
from rlopt.average_reward.end_components import Indices, back_from, end_components, lead_to
from rlopt.average_reward.pairs import EPSILON, Numbers, Pairs, row_sums, zeros
from rlopt.errors import ModelError

NEGLIGIBLE = 1e-11
"""Share of the rewards that the policy gets which no improvement is sought for: far below what is proved."""


@dataclass(frozen=True, eq=False)
class Gains:
    """Optimal gains [S] and a policy that earns them."""

    gains: Numbers
    lower: Numbers
    """[S] what the policy earns at least, rounding included."""
    upper: Numbers
    """[S] what no policy exceeds, rounding included."""
    scale: Numbers
    """[S] mean size of the rewards that the policy gets in the long run, which accuracy is measured by."""
    chosen: Indices
    """[S] the pair of each state."""
    iterations: int
    values: ChainValues | None = None
    """Of that policy, where they were worked out on the way."""

    @property
    def width(self) -> float:
        """Largest difference of upper and lower bound over the states, relative to ``scale``; 0 where both agree."""
        gap, scale = (self.upper - self.lower).astype(np.float64), self.scale.astype(np.float64)
        with np.errstate(divide="ignore"):
            return float(np.max(gap[gap > 0] / scale[gap > 0], initial=0.0))


@dataclass(frozen=True, eq=False)
class _Component:
    gain: object
    lower: object
    upper: object
    scale: object
    chosen: Indices
    iterations: int
    values: ChainValues | None = None


def optimal_gains(pairs: Pairs, max_iterations: int) -> Gains:
    """Solves for the gains.

    The process is cut into its maximal end components. Within one, every state has the same optimal gain, which policy
    iteration finds; where to end is a process of its own, that all policies come to an end in.

    :raises ModelError: if an iteration does not end
    :raises FloatingPointError: if a number is too large or too small for a float
    """
    labels, stays = end_components(pairs)
    components, inner = [], np.full(pairs.n_states, -1)
    staying, kept = pairs.only(stays), np.flatnonzero(stays)
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
    ends = np.cumsum(np.bincount(labels[labels >= 0]))
    begins = np.concatenate([[0], ends[:-1]])
    pair_labels = labels[staying.state]
    for number in range(len(ends)):
        states = np.sort(order[begins[number] : ends[number]])
        if len(states) == 1:
            found = _single(staying, int(states[0]))
            inner[states] = kept[found.chosen]
        else:
            whole = len(states) == pairs.n_states
            part = staying if whole else staying.inside(states)
            found = _communicating(part, max_iterations)
            inner[states] = kept[np.flatnonzero(pair_labels == number)[found.chosen]]
        components.append(found)
    iterations = max(component.iterations for component in components)
    if len(ends) == 1 and (labels >= 0).all():
        only = components[0]
        gain, lower, upper, scale = (_full(value, pairs) for value in (only.gain, only.lower, only.upper, only.scale))
        return Gains(gain, lower, upper, scale, inner, iterations, only.values)
    return _where_to_end(pairs, labels, components, inner, max_iterations, iterations)


def _full(value: object, pairs: Pairs) -> Numbers:
    found = zeros(pairs.n_states, pairs.exact)
    found[:] = value
    return found


def _single(pairs: Pairs, state: int) -> _Component:
    first, end = (int(i) for i in np.searchsorted(pairs.state, [state, state + 1]))
    best = first + int(np.argmax(pairs.rewards[first:end]))
    reward = pairs.rewards[best]
    return _Component(reward, reward, reward, abs(reward), np.array([best]), 1)


def smallest_reward(pairs: Pairs) -> float:
    """The smallest size of a reward that is not 0; 0 if there is none."""
    sizes = np.abs(pairs.rewards[pairs.rewards != 0])
    return float(sizes.min()) if len(sizes) else 0.0


def improved_pairs(
    pairs: Pairs, values: Numbers, noise: Numbers, slack: Numbers, chosen: Indices
) -> tuple[Indices, np.ndarray]:
    """The best pairs of the states where one is better than the chosen by more than that, and which states those are.

    :param values: [m]
    :param noise: [m] bounds of their errors
    :param slack: [m] what is no improvement, such as actions that differ by the rounding of their probabilities alone
    """
    best = pairs.best(values)
    margin = 4 * (noise[best] + noise[chosen]) + slack[best] + slack[chosen]
    better = (values[best] - values[chosen] > margin).astype(bool)
    return np.where(better, best, chosen), better


def _communicating(pairs: Pairs, max_iterations: int) -> _Component:
    """Howard's iteration over policies with one recurrent class, where every state can be reached from every other.

    A policy whose best class is not all it can end in is changed to come to that class. So one number is the gain.
    """
    chosen = pairs.best(pairs.rewards)
    better = np.zeros(pairs.n_states, bool)
    for iteration in range(1, max_iterations + 1):
        chosen, found = _one_class(pairs, chosen, better)
        gain = found.gains[int(np.argmax(found.classes))]
        values, noise, unsure = pairs.excess(gain, found.bias, found.rest)
        recurrent = found.classes >= 0
        scale = (found.distribution * abs(pairs.rewards[chosen]))[recurrent].sum()
        following, better = improved_pairs(pairs, values, noise, np.minimum(unsure, NEGLIGIBLE * scale), chosen)
        if not better.any():
            mine = chosen[recurrent]
            rounding = 0 if pairs.exact else EPSILON * abs(gain)
            lower, upper = gain + (values - noise)[mine].min() - rounding, gain + (values + noise).max() + rounding
            if not pairs.exact:
                scale = max(scale, abs(lower), abs(upper), smallest_reward(pairs))
            return _Component(gain, lower, upper, scale, chosen, iteration, found)
        chosen = following
    raise ModelError(f"policy iteration does not end after {max_iterations} policies: use relative_value_iteration")


def _one_class(pairs: Pairs, chosen: Indices, better: np.ndarray) -> tuple[Indices, ChainValues]:
    found = chain_values(pairs.chain(chosen))
    if found.n_classes == 1:
        return chosen, found
    # An improved state makes its class better than before, even where that is below the last digit.
    candidates = np.flatnonzero(found.classes >= 0)
    largest = found.gains[candidates].max()
    ties = candidates[found.gains[candidates] == largest]
    counted = ties[better[ties]] if better[ties].any() else ties
    target = found.classes == found.classes[counted[0]]
    chosen = lead_to(pairs, chosen, target)
    return chosen, chain_values(pairs.chain(chosen))


def _rounding(moves: Pairs, sizes: Numbers) -> Numbers:
    """[m] bounds of the rounding of sums whose terms have the summed ``sizes`` [m]."""
    return 0 * sizes if moves.exact else EPSILON * (moves.lengths + 4.0) * sizes


@dataclass(frozen=True, eq=False)
class _Ends:
    """The process over end components as single nodes: when to stay in one for ever, and by which pair to leave it."""

    moves: Pairs
    """Pairs that leave a node, their probabilities divided by the one to leave; the state of a pair is a node."""
    original: Indices
    """[m] the pair of the process behind each."""
    can_stay: np.ndarray
    """[nodes]."""


def _where_to_end(
    pairs: Pairs, labels: Indices, components: list[_Component], inner: Indices, max_iterations: int, iterations: int
) -> Gains:
    count = len(components)
    node = labels.copy()
    node[labels < 0] = count + np.arange(np.count_nonzero(labels < 0))
    ends = _ends(pairs, node, count)
    moves = ends.moves

    def of_components(name: str) -> Numbers:
        found = zeros(moves.n_states, pairs.exact)
        for number, component in enumerate(components):
            found[number] = getattr(component, name)
        return found

    stay, lower, upper, scale = (of_components(name) for name in ("gain", "lower", "upper", "scale"))
    nothing = zeros(moves.n_pairs, pairs.exact)
    values, chosen, more = _end_somewhere(moves, ends.can_stay, stay, nothing, max_iterations)
    staying = chosen < 0
    chain = moves.chain(chosen[~staying])
    accuracy = absorbed_values(chain, staying, scale)
    slack_up, slack_down = zeros(moves.n_states, pairs.exact), zeros(moves.n_states, pairs.exact)
    if not pairs.exact and np.ptp(values) > 0 and moves.n_pairs:
        # Rounding may let a little more be promised with each move: what that adds up to, in the longest case.
        steps = moves.rewards * 0.0 + 1.0
        without = np.zeros(moves.n_states)
        can_stop = ends.can_stay & ~np.isin(np.arange(moves.n_states), moves.state)
        longest, _, _ = _end_somewhere(moves, can_stop, without, steps, max_iterations)
        change, sizes = moves.drift(values)
        noise = _rounding(moves, sizes)
        rounding = EPSILON * float(np.abs(values).max()) * 4
        own = np.isin(np.arange(moves.n_pairs), chosen[~staying])
        slack_up = max(float((change + noise).max()), 0.0) * 1.01 * longest + rounding
        slack_down = (
            float(np.abs(change[own]).max(initial=0.0)) + float(noise[own].max(initial=0.0))
        ) * 1.01 * longest + rounding
    promised = (upper - values)[ends.can_stay]
    above, below = max(promised.max(), 0 * promised[0]), (stay - lower)[staying].max()
    upper_of, lower_of = values + above + slack_up, values - below - slack_down
    # Back to the states: within a node that is left, all lead to where it is left.
    policy = inner.copy()
    leaving = np.flatnonzero(~staying)
    originals = ends.original[chosen[leaving]]
    policy[pairs.state[originals]] = originals
    inside_left = (labels >= 0) & ~staying[node]
    if inside_left.any():
        target = np.zeros(pairs.n_states, bool)
        target[pairs.state[originals]] = True
        target |= ~inside_left
        policy = _routed(pairs, _internal(pairs, node), policy, inside_left, target)
    return Gains(values[node], lower_of[node], upper_of[node], accuracy[node], policy, max(iterations, more))


def _internal(pairs: Pairs, node: Indices) -> np.ndarray:
    """[m] the pairs that stay in their node."""
    crossing = node[pairs.source] != node[pairs.column]
    kept = np.ones(pairs.n_pairs, bool)
    kept[pairs.row[crossing]] = False
    return kept


def _routed(pairs: Pairs, allowed: np.ndarray, policy: Indices, moving: np.ndarray, target: np.ndarray) -> Indices:
    """``policy`` with the states ``moving`` led to ``target`` by ``allowed`` pairs [m]."""
    internal, numbers = pairs.only(allowed), np.flatnonzero(allowed)
    _, after = back_from(pairs.n_states, internal.source, internal.column, target)
    hits = np.flatnonzero(internal.column == after[internal.source])[::-1]
    found = policy.copy()
    found[internal.source[hits]] = numbers[internal.row[hits]]
    return np.where(moving & ~target, found, policy)


def _ends(pairs: Pairs, node: Indices, count: int) -> _Ends:
    """The process over nodes; ``node`` [S] is the one of each state, the first ``count`` are end components."""
    crossing = node[pairs.source] != node[pairs.column]
    row, column, rate = pairs.row[crossing], node[pairs.column[crossing]], pairs.rate[crossing]
    used = np.unique(row)
    order = used[np.argsort(node[pairs.state[used]], kind="stable")]
    number = np.full(pairs.n_pairs, -1)
    number[order] = np.arange(len(order))
    total = row_sums(number[row], rate, len(order))
    rate = rate / total[number[row]]
    by_row = np.argsort(number[row], kind="stable")
    size = int(node.max()) + 1
    moves = Pairs(
        size,
        node[pairs.state[order]],
        pairs.action[order],
        zeros(len(order), pairs.exact),
        number[row][by_row],
        column[by_row],
        rate[by_row],
    )
    return _Ends(moves, order, np.arange(size) < count)


def _end_somewhere(
    moves: Pairs, can_stay: np.ndarray, stay: Numbers, rewards: Numbers, max_iterations: int
) -> tuple[Numbers, Indices, int]:
    """The largest expected reward until staying, that of staying included; [nodes] values and pairs, -1 for staying."""
    chosen = np.full(moves.n_states, -1)
    for_moves = ~can_stay
    if moves.n_pairs:
        first = np.searchsorted(moves.state, np.arange(moves.n_states))
        chosen[for_moves] = first[for_moves]
    has = np.bincount(moves.state, minlength=moves.n_states) > 0
    for iteration in range(1, max_iterations + 1):
        staying = chosen < 0
        values = _value_of(moves, chosen, staying, stay, rewards)
        if not moves.n_pairs:
            return values, chosen, iteration
        change, sizes = moves.drift(values)
        noise = _rounding(moves, sizes + abs(rewards))
        gained = rewards + change
        best = _best_of(moves, gained, has)
        following = chosen.copy()
        nodes = np.flatnonzero(has)
        top = best[nodes]
        better = gained[top] > 4 * noise[top] + (EPSILON * abs(values[nodes]) * 4 if not moves.exact else 0)
        following[nodes[better.astype(bool)]] = top[better.astype(bool)]
        # Staying is better than what leaving brings.
        rounding = 0 * values if moves.exact else 8 * EPSILON * (abs(values) + abs(stay))
        back = (can_stay & ~staying & ((stay - values) > rounding)).astype(bool)
        following[back] = -1
        if np.array_equal(following, chosen):
            return values, chosen, iteration
        chosen = following
    raise ModelError(f"policy iteration does not end after {max_iterations} policies: use relative_value_iteration")


def _best_of(moves: Pairs, values: Numbers, has: np.ndarray) -> Indices:
    """As :meth:`Pairs.best`, with nodes that have no pair."""
    number = np.cumsum(has) - 1
    compact = Pairs(
        int(has.sum()), number[moves.state], moves.action, moves.rewards, moves.row, moves.column, moves.rate
    )
    found = np.full(moves.n_states, -1)
    found[has] = compact.best(values)
    return found


def _value_of(moves: Pairs, chosen: Indices, staying: np.ndarray, stay: Numbers, rewards: Numbers) -> Numbers:
    if staying.all():
        return stay.copy()
    chain = moves.chain(chosen[~staying])
    lowest = stay[staying].min()
    base = stay - lowest
    base[~staying] = 0 * base[~staying]
    source = zeros(moves.n_states, moves.exact)
    source[~staying] = rewards[chosen[~staying]]
    return lowest + absorbed_values(chain, staying, base, source)
