"""Exact planners against each other, closed forms and brute force; refusals; the interval's coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlopt.average_reward import (
    FiniteMDP,
    estimate_gain,
    evaluate_policy,
    limiting_matrix,
    linear_program,
    policy_iteration,
    recurrent_classes,
    relative_value_iteration,
    stationary_distribution,
)
from rlopt.errors import ConfigError, ModelError, NonFiniteError

PLANNERS = (relative_value_iteration, policy_iteration, linear_program)


def random_mdp(seed: int, states: int = 6, actions: int = 3, sparse: bool = False) -> FiniteMDP:
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.3 if not sparse else 0.05), size=(states, actions))
    if sparse:  # a ring underneath keeps it communicating
        P = 0.9 * P + 0.1 * np.roll(np.eye(states), 1, axis=1)[:, None, :]
    return FiniteMDP(P, rng.uniform(size=(states, actions)))


def cycle(states: int) -> FiniteMDP:
    """Action 0 goes round, action 1 goes back one; reward 1 in state 0: period ``states`` under action 0."""
    ring = np.roll(np.eye(states), 1, axis=1)
    r = np.zeros((states, 2))
    r[0] = 1.0
    return FiniteMDP(np.stack([ring, ring.T], axis=1), r)


def stay_or_move() -> FiniteMDP:
    """Two states, both actions deterministic; staying pays 0.3 and 0.7: many policies have two recurrent classes."""
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[0, 1, 1] = P[1, 0, 1] = P[1, 1, 0] = 1.0
    return FiniteMDP(P, np.array([[0.3, 0.0], [0.7, 0.0]]))


def with_transient_start() -> FiniteMDP:
    """State 2 is left for good by either action: weakly communicating, not communicating."""
    base = stay_or_move()
    P = np.zeros((3, 2, 3))
    P[:2, :, :2] = base.P
    P[2, 0, 0] = P[2, 1, 1] = 1.0
    return FiniteMDP(P, np.vstack([base.r, [[1.0, 0.0]]]))


@pytest.mark.parametrize("planner", PLANNERS)
def test_planners_equal_brute_force_over_all_policies(planner) -> None:
    for seed in range(5):
        mdp = random_mdp(seed, states=4, actions=3)
        best = max(evaluate_policy(mdp, np.array(p)).gain for p in itertools.product(range(3), repeat=4))
        solution = planner(mdp)
        assert solution.gain == pytest.approx(best, abs=1e-10)
        assert evaluate_policy(mdp, solution.policy).gain == pytest.approx(best, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), states=st.integers(1, 9), actions=st.integers(1, 4), sparse=st.booleans())
def test_planners_agree_and_satisfy_the_optimality_equation(seed: int, states: int, actions: int, sparse: bool) -> None:
    mdp = random_mdp(seed, states, actions, sparse)
    solutions = [planner(mdp) for planner in PLANNERS]
    for solution in solutions:
        assert solution.gain == pytest.approx(solutions[1].gain, abs=1e-8)
        np.testing.assert_allclose(solution.bias, solutions[1].bias, atol=1e-8)
        assert solution.span == pytest.approx(solutions[1].span, abs=1e-8)
        np.testing.assert_allclose(solution.stationary_distribution, solutions[1].stationary_distribution, atol=1e-8)
        backup = (mdp.r + mdp.P @ solution.bias).max(axis=1)
        violation = np.abs(solution.gain + solution.bias - backup).max()
        assert violation < 1e-8 and solution.residual == pytest.approx(violation, abs=1e-12)
        low, high = solution.gain_bracket
        assert low - 1e-12 <= solutions[1].gain <= high + 1e-12
        assert solution.stationary_distribution @ solution.bias == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("planner", PLANNERS)
def test_closed_forms(planner) -> None:
    # Going round a ring of n pays 1 in n steps; going back and forth between states 0 and 1 pays 1 in 2.
    for states, gain in ((2, 1 / 2), (3, 1 / 2), (5, 1 / 2)):
        assert planner(cycle(states)).gain == pytest.approx(gain, abs=1e-9)
    solution = planner(stay_or_move())
    assert solution.gain == pytest.approx(0.7) and solution.policy.tolist() == [1, 0]
    np.testing.assert_allclose(solution.bias, [-0.7, 0.0], atol=1e-8)  # one step without pay on the way
    np.testing.assert_allclose(solution.action_gaps, [[0.4, 0.0], [0.0, 1.4]], atol=1e-8)
    solution = planner(with_transient_start())
    assert solution.gain == pytest.approx(0.7)
    # From state 2, action 0 pays 1 and leads to bias -0.7, action 1 pays 0 and leads to bias 0.
    assert solution.bias[2] == pytest.approx(max(1 - 0.7 - 0.7, 0 - 0.7), abs=1e-8)


@pytest.mark.parametrize("planner", PLANNERS)
def test_shift_and_scale_of_rewards(planner) -> None:
    mdp = random_mdp(3)
    moved = FiniteMDP(mdp.P, 2.5 * mdp.r - 4.0)
    before, after = planner(mdp), planner(moved)
    assert after.gain == pytest.approx(2.5 * before.gain - 4.0, abs=1e-8)
    np.testing.assert_array_equal(after.policy, before.policy)
    np.testing.assert_allclose(after.bias, 2.5 * before.bias, atol=1e-8)


@pytest.mark.parametrize("planner", [policy_iteration, relative_value_iteration])
def test_several_components_have_a_single_gain_or_the_reason_why_not(planner) -> None:
    two_sinks = np.zeros((3, 2, 3))
    two_sinks[0, 0, 1] = two_sinks[0, 1, 2] = two_sinks[1, :, 1] = two_sinks[2, :, 2] = 1.0
    rewards = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.5]])
    with pytest.raises(ModelError, match=r"no single gain: it is 0.5 from state 2 and 1 from state [01].*add a reset"):
        planner(FiniteMDP(two_sinks, rewards)).gain  # noqa: B018
    rewards[2, 1] = 1.0  # both sinks are as good
    assert planner(FiniteMDP(two_sinks, rewards)).gain == pytest.approx(1.0)
    # State 0 can stay where it is, which is worse than state 1, from where nothing comes back: the gain is constant.
    one_way = np.zeros((2, 2, 2))
    one_way[0, 0, 0] = one_way[0, 1, 1] = one_way[1, :, 1] = 1.0
    solution = planner(FiniteMDP(one_way, np.array([[0.2, 0.0], [0.7, 0.7]])))
    assert solution.gain == pytest.approx(0.7) and solution.policy[0] == 1
    assert solution.bias == pytest.approx([-0.7, 0.0], abs=1e-8)
    with pytest.raises(ModelError, match="no single gain"):
        planner(FiniteMDP(one_way, np.array([[0.2, 0.0], [0.1, 0.1]]))).gain  # noqa: B018
    with pytest.raises(ModelError, match=r"2 sets of states .*use policy_iteration"):
        linear_program(FiniteMDP(one_way, np.zeros((2, 2))))


def test_malformed_processes_are_refused_with_the_cure() -> None:
    good = random_mdp(0)
    P, r = np.array(good.P), np.array(good.r)
    for change, message in (
        (lambda P, r: P.__setitem__((1, 2), 0.9 * P[1, 2]), r"P\[1, 2\] sum up to 0.9.*divide the row"),
        (lambda P, r: P.__setitem__((0, 0, slice(0, 2)), [-0.1, 1.1]), r"P\[0, 0, 0\] is -0.1"),
        (lambda P, r: P.__setitem__((2, 1, 0), np.nan), r"P\[2, 1, 0\] is NaN"),
        (lambda P, r: r.__setitem__((3, 1), np.inf), r"r\[3, 1\] is NaN or infinite"),
        (lambda P, r: r.__setitem__((3, 1), 1.5), r"r\[3, 1\] is 1.5, outside reward_range \(0.0, 1.0\)"),
    ):
        bad_P, bad_r = P.copy(), r.copy()
        change(bad_P, bad_r)
        with pytest.raises(ModelError, match=message):
            FiniteMDP(bad_P, bad_r, (0, 1))
    with pytest.raises(ModelError, match="shape"):
        FiniteMDP(P[:, :, :3], r)
    with pytest.raises(ModelError, match="r has shape"):
        FiniteMDP(P, r[:3])
    with pytest.raises(ModelError, match="smaller first"):
        FiniteMDP(P, r, (1, 0))
    with pytest.raises(ModelError, match="not an array of numbers"):
        FiniteMDP([[[1.0]], [[1.0, 2.0]]], r)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read-only"):
        good.P[0, 0, 0] = 0.5
    with pytest.raises(ModelError, match=r"damping is 1: .*0, 1"):
        relative_value_iteration(good, damping=1)
    with pytest.raises(ModelError, match="after 3 sweeps"):
        relative_value_iteration(good, max_sweeps=3)


def test_policy_evaluation_equals_a_long_power_iteration() -> None:
    mdp, rng = random_mdp(7), np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(3), size=6)
    solution = evaluate_policy(mdp, policy)
    chain, rewards = mdp.chain(policy)
    distribution = np.full(6, 1 / 6) @ np.linalg.matrix_power(chain, 2**14)
    assert solution.gain == pytest.approx(distribution @ rewards, abs=1e-10)
    # The bias is the sum of what is got above the gain, over all time.
    total, reach = np.zeros(6), np.eye(6)
    for _ in range(2000):
        total += reach @ rewards - solution.gain
        reach = reach @ chain
    np.testing.assert_allclose(solution.bias, total, atol=1e-8)
    assert solution.residual < 1e-12
    apart = evaluate_policy(stay_or_move(), np.array([0, 0]))
    assert apart.gains.tolist() == [0.3, 0.7]
    with pytest.raises(ModelError, match=r"no single gain: it is 0.3 from state 0 and 0.7 from state 1"):
        apart.gain  # noqa: B018
    for bad in ([0, 3, 0, 0, 0, 0], [0.0] * 6, np.full((6, 3), 0.5), np.full((6, 3), np.nan)):
        with pytest.raises(ModelError):
            evaluate_policy(mdp, np.array(bad))


def test_structure_and_distributions_of_chains() -> None:
    chain = np.zeros((5, 5))
    chain[0, [1, 3]] = 0.25, 0.75  # transient: a quarter ends in {1, 2}, the rest in {3, 4}
    chain[1, 2] = chain[2, 1] = 1.0
    chain[3, [3, 4]], chain[4, [3, 4]] = [0.5, 0.5], [0.25, 0.75]
    assert [c.tolist() for c in recurrent_classes(chain)] == [[1, 2], [3, 4]]
    limit = limiting_matrix(chain)
    # Distribution of {3, 4}: p3 = p3/2 + p4/4, so (1/3, 2/3).
    np.testing.assert_allclose(limit[0], [0, 1 / 8, 1 / 8, 1 / 4, 1 / 2], atol=1e-12)
    np.testing.assert_allclose(limit @ chain, limit, atol=1e-12)
    # A birth-death chain's distribution by detailed balance, down to 1e-12 and accurate there.
    size, up, down = 9, 0.03, 0.9
    walk = np.diag(np.full(size - 1, up), 1) + np.diag(np.full(size - 1, down), -1)
    walk += np.diag(1 - walk.sum(axis=1))
    expected = (up / down) ** np.arange(size)
    np.testing.assert_allclose(stationary_distribution(walk), expected / expected.sum(), rtol=1e-12)


def two_state_run(rng: np.random.Generator, steps: int, stay: float) -> np.ndarray:
    """Rewards of a chain on {0, 1} that stays with probability ``stay``: gain 1/2, correlation (2 stay - 1)^k."""
    return (np.cumsum(rng.random(steps) >= stay) + rng.integers(2)) % 2


@pytest.mark.parametrize("stay", [0.5, 0.9, 0.98])
def test_interval_covers_the_gain_of_a_known_chain(stay: float) -> None:
    rng = np.random.default_rng(1)
    runs, naive, covered = 400, 0, 0
    for _ in range(runs):
        rewards = two_state_run(rng, 20_000, stay)
        estimate = estimate_gain(rewards)
        covered += estimate.low <= 0.5 <= estimate.high
        naive += abs(rewards.mean() - 0.5) <= 1.96 * rewards.std() / np.sqrt(len(rewards))
    # Binomial(400, 0.95) is within 0.915 and 0.98 in 99.8 % of such tests.
    assert 0.905 <= covered / runs <= 0.985
    if stay > 0.5:
        assert naive / runs < 0.7, "the chain is correlated, so an interval that ignores it must fail"


def test_interval_of_several_chains_short_runs_and_refusals() -> None:
    rng = np.random.default_rng(2)
    runs = np.stack([two_state_run(rng, 5_000, 0.9) for _ in range(8)])
    estimate = estimate_gain(runs)
    assert estimate.n_batches * estimate.batch_size == estimate.n_steps <= 40_000
    assert abs(estimate.gain - 0.5) < 0.06 and estimate.reliable and estimate.low < estimate.high
    constant = estimate_gain(np.full(100, 0.25))
    assert constant.low == constant.gain == constant.high == 0.25
    assert not estimate_gain(two_state_run(rng, 200, 0.99)).reliable
    wider = estimate_gain(runs, confidence=0.999)
    assert wider.high - wider.low > estimate.high - estimate.low
    with pytest.raises(ConfigError, match="at least 20"):
        estimate_gain(np.zeros(5))
    with pytest.raises(ConfigError, match="confidence"):
        estimate_gain(np.zeros(50), confidence=1.0)
    with pytest.raises(NonFiniteError):
        estimate_gain(np.append(np.zeros(50), np.nan))


def test_importing_the_package_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, rlopt.average_reward; print(*{'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
