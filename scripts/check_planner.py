"""Checks the planner against rational arithmetic on random decision processes of ten kinds.

``python scripts/check_planner.py --count 5000 --out check_planner.jsonl`` appends a line for each seed and skips the
seeds that the file has already. A silent error is an answer that is wrong, or whose bounds do not hold the truth.
"""

import argparse
import json
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.average_reward import FiniteMDP, policy_iteration
from rlopt.envs.average_reward.river_swim import RiverSwim
from rlopt.errors import ModelError

KINDS = (
    "ergodic",
    "weakly communicating",
    "multichain",
    "periodic",
    "tiny escape probabilities",
    "forbidden costs",
    "reward scales",
    "actions by state",
    "ties",
    "RiverSwim",
)
ACCURACY = Fraction(1, 10**9)
Action = tuple[Fraction, dict[int, Fraction]]
"""Reward, and the probabilities of the other states."""
Process = list[list[Action]]


# ---- random processes


def random_process(seed: int) -> tuple[str, FiniteMDP]:
    """The process of a seed and its kind, which the last digit names; other traits are mixed in at random."""
    kind, rng = KINDS[seed % len(KINDS)], np.random.default_rng(seed)
    if kind == "RiverSwim":
        river = RiverSwim(int(rng.integers(3, 51)), str(rng.choice(["osband", "strehl_littman", "gentle"]))).mdp
        return kind, FiniteMDP(river.P, river.r * 10.0 ** rng.integers(-3, 4) if rng.random() < 0.5 else river.r)
    states, actions = int(rng.integers(2, 9)), int(rng.integers(1, 5))
    P, r = np.zeros((states, actions, states)), rng.normal(size=(states, actions))
    for s in range(states):
        for a in range(actions):
            if kind == "ergodic":
                P[s, a] = rng.dirichlet(np.ones(states))
            elif kind == "periodic":
                P[s, a, (s + rng.choice([1, -1])) % states] = 1.0
            elif kind == "weakly communicating":
                inside = max(1, states - 2)
                targets = rng.choice(inside, int(rng.integers(1, inside + 1)), replace=False)
                P[s, a, targets] = rng.dirichlet(np.ones(len(targets)))
                if s >= inside and rng.random() < 0.5:  # a transient state may stay for a while
                    P[s, a] = 0.5 * P[s, a]
                    P[s, a, s] += 0.5
                if s < inside:  # a ring underneath
                    P[s, a] = 0.9 * P[s, a]
                    P[s, a, (s + 1) % inside] += 0.1
            else:
                targets = rng.choice(states, int(rng.integers(1, min(states, 3) + 1)), replace=False)
                P[s, a, targets] = rng.dirichlet(np.ones(len(targets)))
    if kind == "ties":
        r = rng.integers(0, 2, size=r.shape).astype(float)
        P = np.round(4 * P) / 4
        P[:, :, 0] += 1 - P.sum(axis=2)
        negative = P[:, :, 0] < 0
        P[negative] = np.eye(states)[rng.integers(0, states, int(negative.sum()))]
    if kind == "tiny escape probabilities" or rng.random() < 0.15:
        for s in range(states):
            for a in range(actions):
                if rng.random() < 0.6:
                    p, t = 10.0 ** rng.uniform(-12, -6), int(rng.integers(states))
                    P[s, a] *= 1 - p
                    P[s, a, t] += p
                    if rng.random() < 0.5:  # what else would have left stays
                        rest = P[s, a].copy()
                        P[s, a] = 0.0
                        P[s, a, t] += p
                        P[s, a, s] += rest.sum() - p
    if kind == "forbidden costs" or rng.random() < 0.1:
        r[rng.random(r.shape) < 0.4] = -(10.0 ** rng.integers(9, 11))
    if kind == "reward scales" or rng.random() < 0.1:
        r = r * 10.0 ** rng.uniform(-10, 10)
        if rng.random() < 0.3:
            r = r * 10.0 ** rng.uniform(-5, 5, size=r.shape)
    if kind == "actions by state" or rng.random() < 0.1:
        gone = rng.random(r.shape) < 0.5
        gone[np.arange(states), rng.integers(0, actions, states)] = False
        r[gone] = -np.inf
    return kind, FiniteMDP(P, r)


# ---- the truth, by Howard's multichain policy iteration in rational numbers (Puterman 1994, section 9.2.1)


def rational(mdp: FiniteMDP) -> Process:
    """The process as the rational numbers that its floats are; what a row lacks to 1 stays."""
    return [
        [
            (
                Fraction(float(mdp.r[s, a])),
                {int(t): Fraction(float(mdp.P[s, a, t])) for t in np.flatnonzero(mdp.P[s, a]) if t != s},
            )
            for a in range(mdp.n_actions)
            if np.isfinite(mdp.r[s, a])
        ]
        for s in range(mdp.n_states)
    ]


def solve(rows: list[dict[Any, Fraction]], right: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss-Jordan elimination on sparse rows {column: coefficient}; columns are 0 to n - 1."""
    rows, right = [dict(row) for row in rows], [list(b) for b in right]
    place: dict[int, int] = {}
    for column in range(len(rows)):
        free = [i for i in range(len(rows)) if i not in place.values() and rows[i].get(column)]
        pivot = min(free, key=lambda i: len(rows[i]))
        place[column] = pivot
        scale = rows[pivot][column]
        rows[pivot] = {k: v / scale for k, v in rows[pivot].items()}
        right[pivot] = [b / scale for b in right[pivot]]
        for i in range(len(rows)):
            factor = rows[i].get(column) if i != pivot else None
            if factor:
                for k, v in rows[pivot].items():
                    value = rows[i].get(k, Fraction(0)) - factor * v
                    if value:
                        rows[i][k] = value
                    else:
                        rows[i].pop(k, None)
                right[i] = [b - factor * p for b, p in zip(right[i], right[pivot], strict=True)]
    return [right[place[column]] for column in range(len(rows))]


def closed_classes(chain: list[dict[int, Fraction]]) -> list[list[int]]:
    """The recurrent classes of a chain, by which states reach which."""
    reach = []
    for s in range(len(chain)):
        seen, todo = {s}, [s]
        while todo:
            for t in chain[todo.pop()]:
                if t not in seen:
                    seen.add(t)
                    todo.append(t)
        reach.append(seen)
    found = {frozenset(reach[s]) for s in range(len(chain)) if all(s in reach[t] for t in reach[s])}
    return sorted(sorted(states) for states in found)


def evaluate(policy: list[Action]) -> tuple[list[Fraction], list[Fraction]]:
    """Gains, and a bias that is 0 in the first state of each recurrent class."""
    size = len(policy)
    chain = [transitions for _, transitions in policy]
    gain: list[Any] = [None] * size
    bias: list[Any] = [None] * size
    for states in closed_classes(chain):
        number = {s: i for i, s in enumerate(states)}
        rows = []
        for s in states:  # unknowns: the gain in place of the first state's bias, then the biases
            row: dict[int, Fraction] = {0: Fraction(1)}
            for t, p in chain[s].items():
                for state, factor in ((s, p), (t, -p)):
                    if number[state]:
                        row[number[state]] = row.get(number[state], Fraction(0)) + factor
            rows.append(row)
        found = solve(rows, [[policy[s][0]] for s in states])
        for s in states:
            gain[s], bias[s] = found[0][0], found[number[s]][0] if number[s] else Fraction(0)
    outside = [s for s in range(size) if gain[s] is None]
    number = {s: i for i, s in enumerate(outside)}
    if outside:
        rows, right = [], []
        for s in outside:
            row = {number[s]: sum(chain[s].values(), Fraction(0))}
            into = Fraction(0)
            for t, p in chain[s].items():
                if t in number:
                    row[number[t]] = row.get(number[t], Fraction(0)) - p
                else:
                    into += p * gain[t]
            rows.append(row)
            right.append([into])
        for s, (value,) in zip(outside, solve(rows, right), strict=True):
            gain[s] = value
        right = []
        for s in outside:
            into = sum((p * bias[t] for t, p in chain[s].items() if t not in number), Fraction(0))
            right.append([policy[s][0] - gain[s] + into])
        for s, (value,) in zip(outside, solve(rows, right), strict=True):
            bias[s] = value
    return gain, bias


def drift(action: Action, state: int, values: list[Fraction]) -> Fraction:
    """sum_t P(t) (values(t) - values(state))."""
    return sum((p * (values[t] - values[state]) for t, p in action[1].items()), Fraction(0))


def best_gains(process: Process, chosen: list[int]) -> list[Fraction]:
    """The optimal gain of each state, by improving the policy ``chosen`` until nothing improves it."""
    while True:
        gain, bias = evaluate([actions[a] for actions, a in zip(process, chosen, strict=True)])
        following = list(chosen)
        for s, actions in enumerate(process):
            gains = [drift(action, s, gain) for action in actions]
            if max(gains) > 0:
                following[s] = gains.index(max(gains))
        if following == chosen:
            for s, actions in enumerate(process):
                tied = [a for a in range(len(actions)) if drift(actions[a], s, gain) == 0]
                values = {a: actions[a][0] - gain[s] + drift(actions[a], s, bias) for a in tied}
                best = max(tied, key=values.__getitem__)
                if values[best] > values[chosen[s]]:
                    following[s] = best
        if following == chosen:
            return gain
        chosen = following


# ---- the comparison


def check(seed: int) -> dict[str, Any]:
    """Plans in the process of a seed and compares with the truth."""
    kind, mdp = random_process(seed)
    record: dict[str, Any] = {"seed": seed, "kind": kind, "states": mdp.n_states, "method": "", "reason": ""}
    began = time.perf_counter()
    try:
        found = policy_iteration(mdp)
    except ModelError as error:
        return {**record, "outcome": "refused", "reason": str(error)}
    record |= {"method": found.method, "seconds": round(time.perf_counter() - began, 4)}
    process = rational(mdp)
    possible = [np.flatnonzero(np.isfinite(rewards)).tolist() for rewards in mdp.r]
    chosen = [actions.index(int(a)) for actions, a in zip(possible, found.policy, strict=True)]
    truth = best_gains(process, chosen)
    policy = [actions[a] for actions, a in zip(process, chosen, strict=True)]
    earned, bias = evaluate(policy)
    sizes, _ = evaluate([(abs(reward), transitions) for reward, transitions in policy])
    smallest = min((abs(reward) for actions in process for reward, _ in actions if reward), default=Fraction(1))
    faults = []
    for s in range(mdp.n_states):
        low, high = Fraction(float(found.gain_bounds[0][s])), Fraction(float(found.gain_bounds[1][s]))
        accuracy = ACCURACY * (sizes[s] or smallest)
        if not low <= truth[s] <= high:
            faults.append(f"state {s}: {float(truth[s])!r} is not in [{float(low)!r}, {float(high)!r}]")
        if not low <= earned[s]:
            faults.append(f"state {s}: the policy earns {float(earned[s])!r}, below {float(low)!r}")
        if truth[s] - earned[s] > accuracy or abs(Fraction(float(found.gains[s])) - truth[s]) > accuracy:
            faults.append(f"state {s}: gain {found.gains[s]!r} of the policy {float(earned[s])!r}, {float(truth[s])!r}")
    # The bias up to a constant in each class: differences along transitions, against the sizes in its equation.
    shown = [Fraction(float(value)) for value in found.bias]
    for s, (reward, transitions) in enumerate(policy):
        size = abs(reward) + abs(earned[s])
        size += sum(p * max(abs(h[t]) + abs(h[s]) for h in (bias, shown)) for t, p in transitions.items())
        violation = abs(drift(policy[s], s, shown) - drift(policy[s], s, bias))
        if violation > Fraction(1, 10**8) * size:
            faults.append(f"state {s}: the bias violates its equation by {float(violation):.2g} of {float(size):.2g}")
        for action in process[s]:
            better = action[0] - earned[s] + drift(action, s, bias)
            own = abs(action[0]) + sum(p * (abs(bias[t]) + abs(bias[s])) for t, p in action[1].items())
            if drift(action, s, truth) == 0 and better > Fraction(1, 10**8) * (size + own):
                faults.append(f"state {s}: another action is better by {float(better):.2g}")
    return {**record, "outcome": "wrong" if faults else "right", "reason": "; ".join(faults[:3])}


def main() -> None:
    """Checks a range of seeds and prints what came of it, by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=5000, help="how many seeds")
    parser.add_argument("--out", type=Path, default=Path("check_planner.jsonl"))
    options = parser.parse_args()
    known = {}
    if options.out.exists():
        known = {record["seed"]: record for record in map(json.loads, options.out.read_text().splitlines())}
    seeds = range(options.first, options.first + options.count)
    with options.out.open("a") as file:
        for seed in seeds:
            if seed not in known:
                known[seed] = check(seed)
                file.write(json.dumps(known[seed]) + "\n")
                file.flush()
    records = [known[seed] for seed in seeds]
    for kind in KINDS:
        counts = Counter(record["outcome"] for record in records if record["kind"] == kind)
        print(f"{kind:<28}" + ", ".join(f"{counts[name]:>5} {name}" for name in ("right", "refused", "wrong")))
    exact = sum("rational" in record["method"] for record in records)
    print(f"{exact} of {len(records)} were solved in rational numbers")
    for record in records:
        if record["outcome"] != "right":
            print(record["seed"], record["kind"], record["outcome"], record["reason"])


if __name__ == "__main__":
    main()
