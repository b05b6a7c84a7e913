"""UCRL3, KL-UCRL, IMED-RL, PSRL, PMEVI-DT and optimistic Q's horizon: formulas by hand, maxima by an optimiser."""

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.optimize import linprog, minimize_scalar

import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them
from rlopt.agents.loop.baselines import imed_rl, kl_ucrl, pmevi_dt, ucrl3
from rlopt.agents.loop.baselines.config import KLUCRLConfig, PMEVIDTConfig, PSRLConfig, UCRL3Config
from rlopt.agents.loop.baselines.imed_rl import IMEDRL, IMEDRLLearner
from rlopt.agents.loop.baselines.optimistic_q import OptimisticQ, paper_horizon
from rlopt.agents.loop.baselines.psrl import PSRL, PSRLLearner
from rlopt.agents.loop.confidence_sets.outcomes import divergence_to_mean, pair_divergence, tilted_divergence
from rlopt.average_reward import FiniteMDP, evaluate_policy, policy_iteration
from rlopt.envs.average_reward import FiniteEnv


def random_process(seed: int, states: int = 3, actions: int = 2) -> FiniteMDP:
    rng = np.random.default_rng(seed)
    return FiniteMDP(rng.dirichlet(np.ones(states), size=(states, actions)), rng.uniform(size=(states, actions)))


def fill(data: Any, mdp: FiniteMDP, steps: int, seed: int = 0) -> list[tuple[int, int, float, int]]:
    """Every pair once, then uniform pairs; noisy rewards."""
    rng, seen = np.random.default_rng(seed), []
    pairs = list(itertools.product(range(mdp.n_states), range(mdp.n_actions)))
    for index in range(steps):
        s, a = pairs[index] if index < len(pairs) else pairs[int(rng.integers(len(pairs)))]
        seen.append((s, a, float(rng.random() < mdp.r[s, a]), int(rng.choice(mdp.n_states, p=mdp.P[s, a]))))
        data.add(*seen[-1])
    return seen


# ---- KL-UCRL


def test_kl_ucrl_constants_are_the_papers() -> None:
    S, A, T, delta = 6, 2, 10_000, 0.05
    B = math.log(2 * math.e * S**2 * A * math.log(T) / delta)
    expected = S * (B + math.log(B + 1 / math.log(T)) * (1 + 1 / (B + 1 / math.log(T))))
    assert kl_ucrl.transition_constant(S, A, T, delta) == pytest.approx(expected)
    assert kl_ucrl.reward_constant(S, A, T, delta) == pytest.approx(
        math.sqrt(math.log(4 * S * A * math.log(T) / delta) / 1.99)
    )


def test_kl_ucrl_plan_is_extended_value_iteration_and_no_member_beats_it() -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        mdp = random_process(seed)
        config = KLUCRLConfig(transition_scale=0.02, reward_scale=0.1)
        data = kl_ucrl.KLUCRLLearner(3, 2, config, (0.0, 1.0), 1000)
        seen = fill(data, mdp, 150)
        found = data.plan(10**12)
        assert found.high - found.low <= 1e-5
        rewards, visits = data.largest_rewards().reshape(3, 2), np.array(data.visits).reshape(3, 2)
        counts = np.zeros((3, 2, 3))
        for s, a, _, t in seen:
            counts[s, a, t] += 1
        kernel, radii = counts / visits[:, :, None], data.transition_constant / visits
        for _ in range(100):
            # Towards another distribution as far as the divergence allows, by bisection.
            towards = rng.dirichlet(np.full(3, 0.3), size=(3, 2))
            low, high = np.zeros((3, 2)), np.ones((3, 2))
            for _ in range(40):
                middle = (low + high) / 2
                member = kernel + middle[:, :, None] * (towards - kernel)
                with np.errstate(divide="ignore", invalid="ignore"):
                    apart = np.where(kernel > 0, kernel * np.log(kernel / member), 0).sum(axis=2)
                low, high = np.where(apart <= radii, middle, low), np.where(apart <= radii, high, middle)
            member = kernel + low[:, :, None] * (towards - kernel)
            member /= member.sum(axis=2, keepdims=True)
            assert policy_iteration(FiniteMDP(member, rewards)).gain <= data.gain + 1e-4


# ---- UCRL3


def test_ucrl3_bounds_by_formula() -> None:
    n, delta, p = 50.0, 0.01, 0.2
    ell = 1.12 * math.log(math.log(n * 1.12) * math.log(n * 1.12**2) / (math.log(1.12) ** 2 * delta)) / n
    assert ucrl3.peeled(np.array(n), delta) == pytest.approx(ell)
    mixture = 2 * (1 + 1 / n) * math.log(math.sqrt(n + 1) / delta) / n
    assert ucrl3.laplace(np.array(n), delta) == pytest.approx(mixture)
    assert ucrl3.sub_gaussian(np.array(p)) == pytest.approx((0.5 - p) / math.log(1 / p - 1))
    np.testing.assert_allclose(ucrl3.sub_gaussian(np.array([0.0, 0.5, 1.0])), [0.0, 0.25, 0.0])
    for frequency in (0.0, 0.05, 0.4, 0.9, 1.0):
        lower, upper = ucrl3.probability_intervals(np.array([frequency]), np.array([n]), delta)
        half = 2 * (1 + 1 / n) * math.log(2 * math.sqrt(n + 1) / delta) / n

        def allowed(p: float, up: bool, f: float = frequency, half: float = half) -> bool:
            g = float(ucrl3.sub_gaussian(np.array(p)))
            variance = p * (1 - p) if up and p >= 0.5 else g
            width = min(math.sqrt(2 * p * (1 - p) * ell) + ell / 3, math.sqrt(variance * half))
            return abs(p - f) <= width

        for bound, up, step in ((upper.item(), True, 1e-6), (lower.item(), False, -1e-6)):
            inside = bound - step
            assert 0 <= bound <= 1 and (allowed(min(max(inside, 0), 1), up) or abs(bound - frequency) < 2e-6)
            assert bound in (0.0, 1.0) or not allowed(bound + 2 * step, up) if 0 <= bound + 2 * step <= 1 else True
    learner = ucrl3.UCRL3Learner(2, 3, UCRL3Config(delta=0.1), (0.0, 2.0))
    for reward in (0.0, 2.0, 2.0, 0.0):
        learner.add(0, 1, reward, 1)
    share = 0.1 / (2 * 3 * (3 + 3 * 2))
    slices = float(ucrl3.peeled(np.array(4.0), share))
    width = min(
        math.sqrt((1 + 1 / 4) * math.log(math.sqrt(5) / share) / 8), math.sqrt(2 * 0.25 * slices) + 7 * slices / 3
    )
    assert learner.reward_bounds()[0, 1] == pytest.approx(min(2.0, 1.0 + 2 * width))
    assert learner.reward_bounds()[1, 0] == 2.0


def test_ucrl3_fills_intervals_as_the_linear_program_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        middle = rng.dirichlet(np.full(5, 0.5))
        lower, upper = np.maximum(middle - rng.uniform(0, 0.2, 5), 0), np.minimum(middle + rng.uniform(0, 0.2, 5), 1)
        worth = np.sort(rng.uniform(size=5))[::-1]
        found = ucrl3.filled(lower[None], upper[None])[0]
        best = linprog(-worth, np.ones((1, 5)), [1.0], bounds=list(zip(lower, upper, strict=True)))
        assert found @ worth == pytest.approx(-best.fun)
        # With no room for less, every state matters: the full optimistic distribution.
        seen = np.ones((1, 5), bool)
        full = ucrl3.near_optimistic(lower[None], upper[None], seen, worth, np.zeros(1))
        np.testing.assert_allclose(full[0], found)


def test_ucrl3_support_is_the_smallest_that_is_nearly_optimistic() -> None:
    lower, upper = np.zeros((1, 4)), np.array([[0.1, 0.1, 0.1, 0.9]])
    seen, values = np.array([[False, False, False, True]]), np.array([3.0, 2.0, 1.0, 0.5])

    def support(kappa: float) -> list[int]:
        found = ucrl3.near_optimistic(lower, upper, seen, values, np.array([kappa]))
        return np.flatnonzero(found[0] > 0).tolist()

    # The best alone: the others could add .1 (2 - .5) + .1 (1 - .5) = .2; the best gives .25.
    assert support(0.21) == [0, 3] and support(0.19) == [0, 1, 3] and support(0.0) == [0, 1, 2, 3]


# ---- IMED-RL


def test_imed_rl_index_is_its_definition() -> None:
    data = IMEDRLLearner(3, 2, (0.0, 1.0))
    seen = fill(data, random_process(1), 80, seed=3)
    bias = data.solve()
    counts, rewards = np.zeros((3, 2, 3)), np.zeros((3, 2))
    for s, a, r, t in seen:
        counts[s, a, t] += 1
        rewards[s, a] += r
    visits = counts.sum(axis=2)
    # One visit beside those seen, of half the range and anywhere.
    kernel, means = (counts + 1 / 3) / (visits + 1)[:, :, None], (rewards + 0.5) / (visits + 1)
    np.testing.assert_allclose(data._kernel, kernel)
    np.testing.assert_allclose(data._rewards, means)
    skeleton = visits >= np.log(visits.max(axis=1, keepdims=True)) ** 2
    best = max(
        (evaluate_policy(FiniteMDP(kernel, means), np.array(policy)) for policy in itertools.product(range(2), repeat=3)
         if all(skeleton[s, a] for s, a in enumerate(policy))),
        key=lambda solution: solution.gain,
    )  # fmt: skip
    assert data.gain == pytest.approx(best.gain)
    np.testing.assert_allclose(bias - bias.mean(), best.bias - np.mean(best.bias), atol=1e-8)
    for state in range(3):
        threshold = (means[state] + kernel[state] @ bias).max()
        top = 1.0 + bias.max()
        defined = []
        for action in range(2):
            outcomes = np.array([r + bias[t] for s, a, r, t in seen if (s, a) == (state, action)])

            def log_growth(x: float, y: np.ndarray = outcomes, m: float = threshold) -> float:
                return -float(np.mean(np.log(1 - x * (y - m))))

            limit = 1 / (top - threshold)
            found = minimize_scalar(log_growth, bounds=(0, limit), method="bounded", options={"xatol": 1e-12})
            apart = max(-found.fun, -log_growth(limit * (1 - 1e-12)), 0.0)
            defined.append(len(outcomes) * apart + math.log(len(outcomes)))
        # One that is surely not the smallest is left out.
        smallest = min(defined)
        expected = [
            index if found < math.inf else math.inf for index, found in zip(defined, data.indices(state), strict=True)
        ]
        assert data.indices(state) == pytest.approx(expected, abs=1e-4) and min(expected) == smallest


class PlainIMEDRL(IMEDRLLearner):
    """The same rule written plainly: every equation solved and every index worked out, at every step."""

    def act(self, state: int) -> int:
        rows, visits = np.arange(self.n_states), self._counts[state]
        if visits.min() == 0:
            return int(visits.argmin())
        policy = np.where(self._skeleton[rows, self.policy], self.policy, self._skeleton.argmax(axis=1))
        while True:
            matrix = np.eye(self.n_states) - self._kernel[rows, policy]
            matrix[:, 0] = 1.0
            bias = np.linalg.solve(matrix, self._rewards[rows, policy])
            bias[0] = 0.0
            values = np.where(self._skeleton, self._rewards + self._kernel @ bias, -np.inf)
            margin = 1e-9 * (1.0 + float(np.ptp(bias)))
            better = np.where(values[rows, policy] >= values.max(axis=1) - margin, policy, values.argmax(axis=1))
            if np.array_equal(better, policy):
                break
            policy = better
        self.policy = policy.tolist()
        found, top = [], self.reward_range[1] + bias.max()
        largest = min((self._rewards[state] + self._kernel[state] @ bias).max(), top)
        for action in range(self.n_actions):
            shares, outcomes = self.row(state * self.n_actions + action, bias.tolist())
            apart = divergence_to_mean(np.array([shares]), np.array([outcomes]), top, np.array([largest]))
            found.append(visits[action] * apart.item() + math.log(visits[action]))
        return int(np.argmin(found))


@pytest.mark.parametrize("env", ["RiverSwim-v0", "AccessControl-v0", "two islands", "noisy"])
def test_imed_rl_acts_as_its_plain_form(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it solves only what has changed, and leaves out indices that are surely not the smallest."""
    leave = [[(p, 1, 0.0), (1 - p, 0, 0.0)] for p in (0.1, 0.1, 0.2)]
    islands = [leave, [[(0.1, 0, 1.0), (0.9, 1, 1.0)] for _ in leave]]
    rng = np.random.default_rng(5)
    noisy = [[[(p / 2, int(t), reward) for p, t in zip(rng.dirichlet([1, 1]), (a, s), strict=True) for reward in (0, 1)]
              for a in range(3)] for s in range(8)]  # fmt: skip

    def actions() -> list[int]:
        made: Any = {"two islands": islands, "noisy": noisy}.get(env)
        made = gymnasium.make(f"rlopt/{env}").unwrapped if made is None else FiniteEnv(made)
        taken = []
        step = made.step
        made.step = lambda action: (taken.append(int(action)), step(action))[1]
        model = IMEDRL(made, seed=3).learn(1500, log_interval=None)
        return [*taken, *model.policy.tolist(), model.n_switches]

    fast = actions()
    monkeypatch.setattr(imed_rl, "IMEDRLLearner", PlainIMEDRL)
    assert fast == actions()


def test_divergence_of_a_pair_is_that_of_a_row() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 6))
        shares, outcomes = rng.dirichlet(np.ones(count)), rng.choice([0.0, 0.3, 1.0, 2.0], count)
        largest, mean = float(outcomes.max() + rng.choice([0.0, 0.5])), float(rng.uniform(0, 2.5))
        plain = divergence_to_mean(shares[None], outcomes[None], largest, np.array([mean])).item()
        apart, tilt = pair_divergence(shares.tolist(), outcomes.tolist(), largest, mean)
        assert apart == pytest.approx(plain, rel=1e-9, abs=1e-12)
        for given in (tilt, float(rng.uniform())):
            assert tilted_divergence(shares.tolist(), outcomes.tolist(), largest, mean, given) <= plain + 1e-12


def test_imed_rl_tries_every_action_first_and_learns_river_swim() -> None:
    data = IMEDRLLearner(2, 3, (0.0, 1.0))
    for expected in (0, 1, 2):
        assert data.act(0) == expected
        data.add(0, expected, 0.5, 0)
    env: Any = gymnasium.make("rlopt/RiverSwim-v0").unwrapped
    model = IMEDRL(env, seed=0).learn(5000, log_interval=None)
    assert model.reward_sum > 0.85 * 5000 * env.mdp.gain
    assert evaluate_policy(env.mdp, model.policy).gain == pytest.approx(env.mdp.gain)


# ---- PSRL


def test_psrl_rewards_have_the_moments_of_their_posterior() -> None:
    learner = PSRLLearner(2, 1, PSRLConfig(), (-1.0, 3.0), seed=0)
    for reward in (3.0, 1.0, -1.0):
        learner.add(0, 0, reward, 0)
    draws = np.array([learner.sample_rewards() for _ in range(20_000)])
    # Beta(1 + 1.5, 1 + 1.5) and, never visited, Beta(1, 1) on [-1, 3].
    assert draws[:, 0, 0].mean() == pytest.approx(1.0, abs=0.03)
    assert draws[:, 0, 0].var() == pytest.approx(16 * 0.25 / 6, rel=0.05)
    assert draws[:, 1, 0].mean() == pytest.approx(1.0, abs=0.04)
    assert draws[:, 1, 0].var() == pytest.approx(16 / 12, rel=0.05)


def test_psrl_episodes_end_when_the_next_pair_has_doubled() -> None:
    env: Any = gymnasium.make("rlopt/RiverSwim-v0").unwrapped
    model = PSRL(env, seed=1).learn(2000, log_interval=None)
    # At most log2 of the visits for each pair, and the first visit of each.
    assert 10 < len(model.plans) <= 12 * (2 + math.log2(2000))


# ---- PMEVI-DT


def test_projection_is_the_largest_member_below() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        bounds = rng.uniform(0.1, 2.0, size=(4, 4))
        np.fill_diagonal(bounds, 0.0)
        closed = pmevi_dt.closure(bounds)
        assert np.all(closed[:, :, None] + closed[None] >= closed[:, None] - 1e-12)
        values = rng.normal(size=4) * 3
        found = pmevi_dt.projected(values, closed)
        # The sum of v over v <= values, v(s) - v(s') <= bounds.
        rows, limits = [], []
        for s, t in itertools.permutations(range(4), 2):
            row = np.zeros(4)
            row[s], row[t] = 1, -1
            rows.append(row)
            limits.append(bounds[s, t])
        best = linprog(-np.ones(4), rows, limits, bounds=[(None, value) for value in values])
        np.testing.assert_allclose(found, best.x, atol=1e-8)


def test_commutes_estimate_bias_differences() -> None:
    # Under the only policy: h(s) - h(s') is what a trip from s to s' pays above the gain.
    mdp = FiniteMDP(random_process(5, 4, 1).P, random_process(5, 4, 1).r)
    solution, rng = policy_iteration(mdp), np.random.default_rng(0)
    commutes, state, total = pmevi_dt.Commutes(4), 0, 0.0
    commutes.arrive(0, 0, 0.0)
    for step in range(1, 20_001):
        total += mdp.r[state, 0]
        state = int(rng.choice(4, p=mdp.P[state, 0]))
        commutes.arrive(state, step, total)
    found, parts = commutes.differences(solution.gain)
    np.testing.assert_allclose(found, solution.bias[:, None] - solution.bias[None], atol=0.05)
    assert parts.min(initial=np.inf, where=~np.eye(4, dtype=bool)) > 500 and np.array_equal(parts, parts.T)


def test_commutes_by_hand() -> None:
    commutes = pmevi_dt.Commutes(3)
    for step, (state, total) in enumerate([(0, 0.0), (0, 1.0), (2, 3.0), (1, 6.0), (0, 10.0)]):
        commutes.arrive(state, step, total)
    # From the first visit of 0 to 2: two steps, 3; from 2 back to 0: two steps, 7; from 0 to 1 three steps, 6.
    assert (commutes.parts[0, 2], commutes.steps[0, 2], commutes.rewards[0, 2]) == (1, 2, 3)
    assert (commutes.parts[2, 0], commutes.steps[2, 0], commutes.rewards[2, 0]) == (1, 2, 7)
    assert (commutes.parts[0, 1], commutes.steps[0, 1], commutes.rewards[0, 1]) == (1, 3, 6)


def test_pmevi_plan_is_within_the_bounds_and_its_mitigation_by_formula() -> None:
    data = pmevi_dt.PMEVIDTLearner(3, 2, PMEVIDTConfig(delta=0.1), (0.0, 1.0), 1000)
    fill(data, random_process(2), 200)
    assert data.largest_span == pytest.approx(1000**0.2)
    bounds, kernel = data.bias_bounds(), data.model.kernel()
    values = np.array([0.0, 1.0, 0.5])
    found, n, c = data.mitigation(kernel, values, bounds), data.model.counts, data.largest_span
    logarithm = math.log(6 * 1000 / 0.1)
    p = kernel[1, 0]
    variance = p @ (values - p @ values) ** 2
    variance += 8 * c * sum(p[t] * min(bounds[t, 1] + bounds[1, t], 2 * c) for t in range(3))
    assert found[1, 0] == pytest.approx(math.sqrt(2 * variance * logarithm / n[1, 0]) + 3 * c * logarithm / n[1, 0])
    plan = data.plan(10_000)
    assert np.all(plan.values[:, None] - plan.values[None] <= bounds + 1e-9)


# ---- optimistic Q-learning


def test_optimistic_q_runs_at_the_horizon_of_its_formula() -> None:
    assert paper_horizon(6.3, 100_000, 12) == pytest.approx((100_000 / 12) ** (1 / 3))
    assert paper_horizon(0.01, 100_000, 12) == pytest.approx(math.sqrt(0.01 * 100_000 / 12))
    assert paper_horizon(1.0, 10, 12) == 2.0
    env = FiniteEnv(mdp=random_process(0))
    model = OptimisticQ(env, seed=0, span=2.0).learn(6000, log_interval=None)
    low, high = env.mdp.reward_range  # type: ignore[misc]
    assert paper_horizon(2.0 / (high - low), 6000, 6) == model.data.H
