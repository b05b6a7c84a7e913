"""The certified planner: processes with known answers, random ones against rational numbers, imports, structure."""

import importlib.util
import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from rlopt.average_reward import (
    FiniteMDP,
    SparseMDP,
    evaluate_policy,
    linear_program,
    policy_iteration,
    relative_value_iteration,
    structure,
)
from rlopt.envs.average_reward import FiniteEnv
from rlopt.envs.average_reward.river_swim import RiverSwim
from rlopt.errors import ConfigError, ModelError

SCRIPT = Path(__file__).parents[3] / "scripts" / "check_planner.py"


def check_planner():
    spec = importlib.util.spec_from_file_location("check_planner", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_places(stay_0: float, stay_1: float, move: float, escape: float = 1.0) -> FiniteMDP:
    """Stay in state 0 or 1, or try to move, which succeeds with probability ``escape``."""
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[1, 0, 1] = 1.0
    P[0, 1], P[1, 1] = [1 - escape, escape], [escape, 1 - escape]
    return FiniteMDP(P, np.array([[stay_0, move], [stay_1, move]]))


def test_random_processes_of_all_kinds_against_rational_numbers() -> None:
    check = check_planner().check
    records = [check(seed) for seed in range(200) if seed % 10 != 9]  # RiverSwim has its own test
    assert [record for record in records if record["outcome"] != "right"] == []


def test_a_raised_bias_reaches_the_states_that_lead_there() -> None:
    """Staying in state 1 ties at first with paying dearly to leave it; once it stays, state 2 should go there."""
    P = np.zeros((3, 2, 3))
    P[0, :, 0] = 1.0
    P[1, 0, 0] = P[1, 1, 1] = 1.0
    P[2, 0, 0] = P[2, 1, 1] = 1.0
    rewards = np.array([[1.0, 1.0], [-1e10, 1.0], [-4.0, 0.0]])
    # Staying earns 1 in both; from 2 it costs 5 to reach the one and 1 to reach the other.
    solution = policy_iteration(FiniteMDP(P, rewards))
    assert solution.gains.tolist() == [1.0, 1.0, 1.0] and solution.policy[1:].tolist() == [1, 1]
    assert solution.bias.tolist() == [0.0, 0.0, -1.0]
    assert check_planner().check(1778)["outcome"] == "right"


@pytest.mark.parametrize("size", [14, 20, 50])
def test_long_rivers(size: int) -> None:
    # Swimming right always: a birth-death chain, whose distribution detailed balance gives.
    mdp = RiverSwim(size).mdp
    weights = np.cumprod([1.0, 0.6 / 0.05, *[0.35 / 0.05] * (size - 3), 0.35 / 0.4])
    right = weights[-1] / weights.sum()
    low, high = mdp.solution.gain_bracket
    assert mdp.solution.policy.tolist() == [1] * size
    assert mdp.gain == pytest.approx(right, rel=1e-12) and low <= mdp.gain <= high and high - low < 1e-9


@pytest.mark.parametrize("cost", [-1e9, -1e10, -np.inf])
def test_forbidden_actions(cost: float) -> None:
    P = np.zeros((2, 3, 2))
    P[0, 0, 0] = P[0, 1, 1] = P[0, 2, 0] = P[1, 0, 0] = P[1, 1, 1] = P[1, 2, 1] = 1
    mdp = FiniteMDP(P, np.array([[0.3, 0, cost], [0, 0.9, cost]]))
    solution = policy_iteration(mdp)
    assert solution.gain == pytest.approx(0.9) and solution.policy.tolist() == [1, 1]
    assert evaluate_policy(mdp, solution.policy).gain == solution.gain
    assert relative_value_iteration(mdp).gain == pytest.approx(0.9)
    if cost == -np.inf:
        assert linear_program(mdp).gain == pytest.approx(0.9)
        assert np.isneginf(solution.values[:, 2]).all() and mdp.reward_range == (0.0, 0.9)
        with pytest.raises(ModelError, match="takes the action 2 in state 0, where it is impossible"):
            evaluate_policy(mdp, np.array([2, 1]))
        with pytest.raises(ModelError, match="state 0 has no possible action"):
            FiniteMDP(P, np.full((2, 3), -np.inf))


@pytest.mark.parametrize("escape", [1e-3, 1e-6, 1e-10, 1e-12])
def test_improbable_escapes(escape: float) -> None:
    solution = policy_iteration(two_places(0.3, 0.9, 0.2, escape))
    assert solution.gain == pytest.approx(0.9, rel=1e-12) and solution.policy.tolist() == [1, 0]
    # From state 0: 1 / escape tries at 0.2 instead of 0.9.
    assert solution.span == pytest.approx(0.7 / escape, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-10, 1.0, 1e10, 1e200])
@pytest.mark.parametrize("planner", [policy_iteration, relative_value_iteration, linear_program])
def test_units_of_reward_do_not_matter(planner, scale: float) -> None:
    assert planner(two_places(0.3 * scale, 0.9 * scale, 0.0)).gain == pytest.approx(0.9 * scale, rel=1e-9)


def test_gains_that_depend_on_the_first_state() -> None:
    # From state 0, action 0 leads to state 1 or 2 alike, action 1 to state 2; 1 pays 1, 2 pays 0.25 or nothing.
    P = np.zeros((3, 2, 3))
    P[0, 0, [1, 2]], P[0, 1, 2] = 0.5, 1.0
    P[1, :, 1] = P[2, :, 2] = 1.0
    mdp = FiniteMDP(P, np.array([[0.0, 5.0], [1.0, 1.0], [0.25, 0.0]]))
    solution = policy_iteration(mdp)
    np.testing.assert_allclose(solution.gains, [0.625, 1.0, 0.25])
    assert solution.policy.tolist() == [0, 0, 0] and not solution.is_constant
    np.testing.assert_allclose(solution.bias, [-0.625, 0.0, 0.0])  # nothing is paid in the first step
    np.testing.assert_allclose(solution.stationary_distribution, [0.0, 0.5, 0.5])
    assert solution.values[0, 1] == -np.inf  # it pays 5 once, and loses gain for ever
    assert structure(mdp).kind == "multichain" and structure(mdp).components.tolist() == [-1, 0, 1]
    with pytest.raises(ModelError, match=r"no single gain: it is 0.25 from state 2 and 1 from state 1"):
        mdp.gain  # noqa: B018
    np.testing.assert_allclose(mdp.gains, solution.gains)


def test_the_bias_is_the_largest_and_blackwell_optimality_goes_on() -> None:
    # Either state can be kept for ever without pay; to move costs 1. The optimality equation holds for every span up
    # to 1: the largest bias is 0.
    tie = policy_iteration(two_places(0.0, 0.0, -1.0))
    assert tie.gain == 0.0 and tie.span == 0.0
    # From state 0, action 0 pays 1 after a step more than action 1: the biases are equal, a discount prefers action 1.
    P, r = np.zeros((3, 2, 3)), np.zeros((3, 2))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 2] = P[2, :, 2] = 1.0
    r[0, 1] = r[1, :] = 1.0
    mdp = FiniteMDP(P, r)
    assert policy_iteration(mdp).bias == pytest.approx([1.0, 1.0, 0.0])
    for exact in (False, True):
        assert policy_iteration(mdp, criterion="blackwell", exact=exact).policy[0] == 1
    with pytest.raises(ModelError, match="gain, bias or blackwell"):
        policy_iteration(mdp, criterion="best")  # type: ignore[arg-type]


def test_blackwell_policies_are_optimal_for_a_discount_near_1() -> None:
    rng, discount = np.random.default_rng(1), 1 - 1e-5

    def discounted(mdp: FiniteMDP, policy: tuple[int, ...]) -> np.ndarray:
        chain, rewards = mdp.chain(np.array(policy))
        return np.linalg.solve(np.eye(len(policy)) - discount * chain, rewards)

    for _ in range(30):  # deterministic moves and rewards 0 and 1: many ties in gain and bias
        P = np.eye(4)[rng.integers(4, size=(4, 2))]
        mdp = FiniteMDP(P, rng.integers(0, 2, size=(4, 2)).astype(float))
        best = np.max([discounted(mdp, policy) for policy in itertools.product(range(2), repeat=4)], axis=0)
        found = policy_iteration(mdp, criterion="blackwell")
        np.testing.assert_allclose(discounted(mdp, tuple(found.policy)), best, rtol=0, atol=1e-7)


def test_spans_of_planners_agree_on_processes_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        size = int(rng.integers(3, 9))
        P = np.zeros((size, 3, size))
        for s in range(size):
            P[s, 0, (s + 1) % size] = P[s, 1, rng.integers(size)] = P[s, 2, rng.integers(size)] = 1.0
        mdp = FiniteMDP(P, rng.integers(0, 2, size=(size, 3)).astype(float))
        floats, rational = policy_iteration(mdp), policy_iteration(mdp, exact=True)
        assert floats.gain == pytest.approx(rational.gain, rel=1e-12)
        np.testing.assert_allclose(floats.bias, rational.bias, atol=1e-12)


def test_taxi_and_frozen_lake_from_gymnasium() -> None:
    import gymnasium

    taxi = gymnasium.make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3")
    for make in (FiniteMDP, SparseMDP):
        solution = make.from_gymnasium(taxi).solution
        assert solution.gain == pytest.approx(0.6067, abs=5e-5) and solution.is_constant
    lake = gymnasium.make("FrozenLake-v1").unwrapped
    mdp = FiniteMDP.from_gymnasium(lake.P, np.eye(16)[0])
    with pytest.raises(ModelError, match="where they start again is unknown"):
        FiniteMDP.from_gymnasium(lake.P)
    # One episode is worth its chance of success over its length; the best policy by the discounted ratio's root.
    gain = mdp.gain
    values = np.zeros(16)
    for _ in range(20_000):  # the best sum of (reward - gain) until an end is 0 from the start
        q = [[sum(p * (r - gain + (0.0 if end else values[t])) for p, t, r, end in lake.P[s][a]) for a in range(4)]
             for s in range(16)]  # fmt: skip
        following = np.max(q, axis=1)
        if np.abs(following - values).max() < 1e-13:
            break
        values = following
    assert values[0] == pytest.approx(0.0, abs=1e-9)


def test_arrays_in_either_order() -> None:
    rng = np.random.default_rng(0)
    P, r = rng.dirichlet(np.ones(4), size=(4, 3)), rng.random((4, 3))
    expected = FiniteMDP(P, r).gain
    swapped = P.transpose(1, 0, 2)
    assert FiniteMDP.from_arrays(P, r).gain == expected == FiniteMDP.from_arrays(swapped, r).gain
    assert FiniteMDP.from_arrays(swapped, np.broadcast_to(r.T[:, :, None], (3, 4, 4))).gain == pytest.approx(expected)
    by_state = FiniteMDP.from_arrays(swapped, r[:, 0])
    assert by_state.gain == FiniteMDP(P, np.repeat(r[:, :1], 3, axis=1)).gain
    assert SparseMDP.from_matrices(list(swapped), r).gain == pytest.approx(expected, rel=1e-12)
    square = rng.dirichlet(np.ones(3), size=(3, 3))
    with pytest.raises(ModelError, match=r"\[S, A, S\] and \[A, S, S\] both have: give order="):
        FiniteMDP.from_arrays(square, np.ones(3))
    rewards = rng.random((3, 3))
    assert FiniteMDP.from_arrays(square, rewards, "SAS").gain == FiniteMDP(square, rewards).gain
    turned = FiniteMDP.from_arrays(square.transpose(1, 0, 2), rewards, "ASS")
    assert turned.gain == FiniteMDP(square, rewards).gain
    with pytest.raises(ModelError, match="not A, S, S"):
        FiniteMDP.from_arrays(P, r, "ASS")
    with pytest.raises(ModelError, match=r"FiniteMDP.from_arrays for \[actions, states, states\]"):
        FiniteMDP(swapped, r)


def test_tables_with_actions_by_state() -> None:
    table = [  # state 0 has one action, state 1 two
        (0, 0, 1, 1.0, 0.0),
        (1, 0, 1, 0.5, 0.2),
        (1, 0, 0, 0.5, 0.2),
        (1, 1, 0, 1.0, 1.0),
    ]
    for make in (FiniteMDP, SparseMDP):
        mdp = make.from_table(table)
        assert mdp.gain == pytest.approx(0.5) and mdp.solution.policy.tolist() == [0, 1]
        assert mdp.reward_range == (0.0, 1.0) and mdp.solution.values[0, 1] == -np.inf
        with pytest.raises(ModelError, match="not a whole number"):
            make.from_table([(0, 0.5, 0, 1.0, 0.0)])
        with pytest.raises(ModelError, match="state 1 has no possible action"):
            make.from_table([(0, 0, 1, 1.0, 0.0)])
    with pytest.raises(ModelError, match="is listed twice"):
        SparseMDP(np.eye(2)[[0, 0, 1]], np.array([0, 0, 1]), np.array([0, 0, 0]), np.zeros(3))
    with pytest.raises(ModelError, match=r"state 0 and action 0 sum up to 0.5"):
        SparseMDP(0.5 * np.eye(1), np.array([0]), np.array([0]), np.zeros(1))


def test_an_environment_with_actions_by_state() -> None:
    env = FiniteEnv([[[(1.0, 1, 0.0)]], [[(1.0, 1, 0.2)], [(1.0, 0, 1.0)]]])
    assert env.mdp.possible.tolist() == [[True, False], [True, True]] and env.mdp.gain == pytest.approx(0.5)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="action 1 is impossible in state 0"):
        env.step(1)
    assert env.step(0)[:2] == (1, 0.0)


def test_structure_is_recognised() -> None:
    assert structure(two_places(0, 0, 0)).kind == "communicating"
    assert structure(two_places(0, 0, 0, 1e-12)).kind == "communicating"
    assert structure(two_places(0, 0, 0)).unichain is False
    river = structure(RiverSwim(6).mdp)
    assert (river.kind, river.unichain) == ("communicating", True)
    P = np.zeros((3, 1, 3))
    P[0, 0, 1] = P[1, 0, 2] = P[2, 0, 1] = 1.0
    found = structure(FiniteMDP(P, np.zeros((3, 1))))
    assert (found.kind, found.unichain, found.components.tolist()) == ("weakly communicating", True, [-1, 0, 0])


def queue(size: int, arrival: float = 0.3) -> SparseMDP:
    """Customers arrive; to serve fast costs 1 more a step than to serve slowly, every customer 0.01 a step."""
    from scipy.sparse import diags_array

    matrices = []
    for service in (0.35, 0.5):
        up, down = np.full(size - 1, arrival * (1 - service)), np.full(size - 1, service * (1 - arrival))
        up[0] = arrival
        stay = 1 - np.append(up, 0.0) - np.insert(down, 0, 0.0)
        matrices.append(diags_array([down, stay, up], offsets=[-1, 0, 1]))
    waiting = 0.01 * np.arange(size)
    return SparseMDP.from_matrices(matrices, -np.stack([waiting, waiting + 1.0], axis=1))


def test_sparse_and_dense_agree_and_a_long_queue_is_solved() -> None:
    small = queue(300)
    dense = np.zeros((300, 2, 300))
    dense[small.state, small.action] = small.transitions.toarray()
    other = FiniteMDP(dense, small.r.reshape(300, 2))
    assert small.gain == pytest.approx(other.gain, rel=1e-12)
    np.testing.assert_array_equal(small.solution.policy, other.solution.policy)
    short = queue(40)
    assert relative_value_iteration(short).gain == pytest.approx(short.gain, rel=1e-9)
    began = time.perf_counter()
    large = queue(20_000).solution
    assert time.perf_counter() - began < 20
    low, high = large.gain_bracket
    assert low <= large.gain <= high and high - low < 1e-9 * abs(large.gain)
    # A threshold, and beyond a few hundred customers the queue's length changes nothing.
    assert large.gain == pytest.approx(small.gain, rel=1e-9) and set(np.diff(large.policy)) <= {0, 1}
