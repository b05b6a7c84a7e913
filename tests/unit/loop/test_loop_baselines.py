"""Peers of LOOP: inner maximisations by brute force, steps by hand, exact gains, exact resume, refusals."""

import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.optimize import linprog
from stable_baselines3.common.callbacks import BaseCallback

import rlopt.envs.tasks.own_tasks  # noqa: F401 registers them
from rlopt.agents.loop.baselines.config import DifferentialQConfig, RVIQConfig, TSDEConfig, UCRL2Config
from rlopt.agents.loop.baselines.fopo import FOPO
from rlopt.agents.loop.baselines.imed_rl import IMEDRL
from rlopt.agents.loop.baselines.kl_ucrl import KLUCRL
from rlopt.agents.loop.baselines.olsvi import OLSVIFH, OLSVILearner
from rlopt.agents.loop.baselines.optimistic_q import OptimisticQ, OptimisticQLearner
from rlopt.agents.loop.baselines.pmevi_dt import PMEVIDT
from rlopt.agents.loop.baselines.psrl import PSRL
from rlopt.agents.loop.baselines.q_learning import RVIQ, DifferentialQ, DifferentialQLearner, RVIQLearner
from rlopt.agents.loop.baselines.tsde import TSDE, TSDELearner
from rlopt.agents.loop.baselines.ucrl2 import UCRL2, UCRL2Learner, optimistic_kernel
from rlopt.agents.loop.baselines.ucrl3 import UCRL3
from rlopt.agents.loop.confidence_sets.counts import relative_sweeps
from rlopt.average_reward import FiniteMDP, evaluate_policy, policy_iteration
from rlopt.envs.average_reward import FiniteEnv
from rlopt.errors import CheckpointError, ConfigError, SpaceError

TABULAR: list[Any] = [UCRL2, UCRL3, KLUCRL, PMEVIDT, IMEDRL, PSRL, TSDE, DifferentialQ, RVIQ, OptimisticQ]
LINEAR: list[Any] = [FOPO, OLSVIFH]


def river(n_states: int = 6) -> Any:
    return gymnasium.make("rlopt/RiverSwim-v0", n_states=n_states).unwrapped


def places() -> Any:
    return gymnasium.make("rlopt/AggregatedRiverSwim-v0", n_places=3, members=2).unwrapped


def random_process(seed: int, states: int = 3, actions: int = 2) -> FiniteMDP:
    rng = np.random.default_rng(seed)
    return FiniteMDP(rng.dirichlet(np.ones(states), size=(states, actions)), rng.uniform(size=(states, actions)))


def fill(model: Any, mdp: FiniteMDP, steps: int, seed: int = 0) -> None:
    """Every transition once, then uniform pairs."""
    rng = np.random.default_rng(seed)
    for s, a, t in itertools.product(range(mdp.n_states), range(mdp.n_actions), range(mdp.n_states)):
        model.add(s, a, float(mdp.r[s, a]), t)
    for _ in range(steps):
        s, a = int(rng.integers(mdp.n_states)), int(rng.integers(mdp.n_actions))
        model.add(s, a, float(mdp.r[s, a]), int(rng.choice(mdp.n_states, p=mdp.P[s, a])))


class History(BaseCallback):
    """The learner's policy before every step and the transitions."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.process, self.steps, self.policies = env, [], []

    def _on_training_start(self) -> None:
        self.last, self.policies = self.process.state, [list(self.model.data.policy)]

    def _on_step(self) -> bool:
        self.steps.append(
            (self.last, int(self.locals["actions"][0]), float(self.locals["rewards"][0]), self.process.state)
        )
        self.last = self.process.state
        self.policies.append(list(self.model.data.policy))
        return True


# ---- UCRL2


def test_optimistic_kernel_is_the_linear_programs_optimum() -> None:
    rng = np.random.default_rng(0)
    kernels, values = rng.dirichlet(np.full(5, 0.4), size=30), rng.normal(size=5)
    radii = rng.uniform(0, 2.2, size=30)
    found = optimistic_kernel(kernels, radii, values)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert found.min() >= 0 and np.all(np.abs(found - kernels).sum(axis=1) <= radii + 1e-12)
    for distribution, radius, ours in zip(kernels, radii, found, strict=True):
        # Variables p, u with |p - distribution| <= u and sum u <= radius.
        inequalities = np.block([[np.eye(5), -np.eye(5)], [-np.eye(5), -np.eye(5)], [np.zeros(5), np.ones(5)]])
        bounds = np.concatenate([distribution, -distribution, [radius]])
        total = np.concatenate([np.ones(5), np.zeros(5)])[None]
        best = linprog(np.concatenate([-values, np.zeros(5)]), inequalities, bounds, total, [1.0])
        assert ours @ values == pytest.approx(-best.fun, abs=1e-9)


def test_extended_value_iteration_is_exact_without_radius_and_no_member_beats_it() -> None:
    rng = np.random.default_rng(1)
    for seed in range(5):
        mdp = random_process(seed)
        exact = UCRL2Learner(3, 2, UCRL2Config(transition_scale=0.0), (0.0, 1.0))
        fill(exact.model, mdp, 40)
        empirical = FiniteMDP(exact.model.kernel(), exact.model.mean_rewards(1.0), (0.0, 1.0))
        found = exact.plan(10**14)
        assert found.gain == pytest.approx(empirical.gain, abs=1e-6)
        np.testing.assert_array_equal(exact.policy, empirical.solution.policy)

        learner = UCRL2Learner(3, 2, UCRL2Config(transition_scale=0.01), (0.0, 1.0))
        fill(learner.model, mdp, 40)
        found = learner.plan(10**10)
        rewards, radii = learner.sets(10**10)
        own = optimistic_kernel(learner.model.kernel(), radii, found.values)
        assert evaluate_policy(FiniteMDP(own, rewards), np.array(learner.policy)).gain == pytest.approx(
            found.gain, abs=1e-4
        )
        for _ in range(200):
            # A random direction within each ball: towards another distribution, as far as the radius allows.
            towards = rng.dirichlet(np.full(3, 0.3), size=(3, 2)) - learner.model.kernel()
            share = np.minimum(radii / np.maximum(np.abs(towards).sum(axis=2), 1e-12), 1.0)
            member = learner.model.kernel() + share[:, :, None] * towards
            assert policy_iteration(FiniteMDP(member, rewards)).gain <= found.gain + 1e-4


def test_reward_widths_and_radii_are_the_papers() -> None:
    learner = UCRL2Learner(2, 3, UCRL2Config(transition_scale=14.0, reward_scale=7.0, delta=0.1), (0.0, 1.0))
    for _ in range(50):
        learner.add(0, 1, 0.0, 1)
    rewards, radii = learner.sets(49)
    assert radii[0, 1] == pytest.approx(math.sqrt(14 * 2 * math.log(2 * 3 * 50 / 0.1) / 50))
    assert rewards[0, 1] == pytest.approx(min(1.0, math.sqrt(7 * math.log(2 * 2 * 3 * 50 / 0.1) / 100)))
    assert rewards[1, 0] == 1.0 and radii[1, 0] == 2.0


def test_ucrl2_episodes_end_when_the_next_pair_has_doubled() -> None:
    env = river()
    history = History(env)
    model = UCRL2(env, seed=0).learn(3000, callback=history)
    start, within, ends = np.zeros((6, 2)), np.zeros((6, 2)), [0]
    for step, (s, a, _, t) in enumerate(history.steps, 1):
        assert a == history.policies[step - 1][s]
        within[s, a] += 1
        following = t, history.policies[step - 1][t]
        if within[following] >= max(1, start[following]):
            start, within = start + within, np.zeros((6, 2))
            ends.append(step)
    assert [plan.step for plan in model.plans] == ends and len(ends) > 20


# ---- posterior sampling


def test_posterior_draws_have_the_dirichlet_moments() -> None:
    learner = TSDELearner(3, 1, TSDEConfig(prior=0.5), (0.0, 1.0), seed=0)
    for target, count in enumerate((4, 1, 0)):
        for _ in range(count):
            learner.model.add(0, 0, 0.0, target)
    draws = np.array([learner.sample()[0, 0] for _ in range(20_000)])
    parameters = np.array([4.5, 1.5, 0.5])
    mean = parameters / 6.5
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=4 * math.sqrt(0.25 / 7.5 / 20_000))
    np.testing.assert_allclose(draws.var(axis=0), mean * (1 - mean) / 7.5, rtol=0.06)
    np.testing.assert_allclose(draws.sum(axis=1), 1)


def test_posterior_draws_of_tiny_parameters_are_distributions() -> None:
    learner = TSDELearner(3, 2, TSDEConfig(prior=1e-6), (0.0, 1.0), seed=0)
    draws = np.array([learner.sample() for _ in range(500)])
    np.testing.assert_allclose(draws.sum(axis=-1), 1)
    np.testing.assert_allclose(draws.mean(axis=0), 1 / 3, atol=0.1)


def test_noisy_rewards_are_drawn_from_their_beta_posterior() -> None:
    learner = TSDELearner(2, 1, TSDEConfig(rewards="noisy"), (-1.0, 3.0), seed=0)
    for reward in (3.0, 3.0, -1.0):
        learner.model.add(0, 0, reward, 0)
    draws = np.array([learner.sample_rewards() for _ in range(20_000)])
    # Beta(3, 2) on [-1, 3]: mean -1 + 4 * 3/5, variance 16 * 6 / (25 * 6).
    assert draws[:, 0, 0].mean() == pytest.approx(1.4, abs=0.03)
    assert draws[:, 0, 0].var() == pytest.approx(0.64, rel=0.05)
    np.testing.assert_array_equal(draws[:, 1, 0], 3.0)


def test_tsde_policy_is_optimal_for_the_drawn_process() -> None:
    for seed in range(5):
        mdp = random_process(seed)
        learner = TSDELearner(3, 2, TSDEConfig(tolerance=1e-10), (0.0, 1.0), seed)
        fill(learner.model, mdp, 20)
        drawn = learner.sample()
        learner.sample = lambda drawn=drawn: drawn  # type: ignore[method-assign,misc]
        learner.plan()
        exact = policy_iteration(FiniteMDP(drawn, learner.model.mean_rewards(1.0)))
        assert learner.gain == pytest.approx(exact.gain, abs=1e-8)
        np.testing.assert_array_equal(learner.policy, exact.policy)


def test_tsde_episodes_end_by_length_or_doubling() -> None:
    env = river()
    history = History(env)
    model = TSDE(env, seed=1).learn(2000, callback=history)
    start, visits, ends, previous = np.zeros((6, 2)), np.zeros((6, 2)), [0], 0
    for step, (s, a, _, _) in enumerate(history.steps, 1):
        visits[s, a] += 1
        if step - ends[-1] > previous or visits[s, a] > 2 * start[s, a]:
            start, previous = visits.copy(), step - ends[-1]
            ends.append(step)
    assert [plan.step for plan in model.plans] == ends and len(ends) > 30


# ---- Q-learning


def test_differential_q_step_by_hand() -> None:
    learner = DifferentialQLearner(2, 2, DifferentialQConfig(learning_rate=0.5, gain_rate=0.2, decay=1.0), seed=0)
    learner.rows = [[1.0, 2.0], [3.0, -1.0]]
    learner.gain = 0.25
    # delta = 1 - .25 + 3 - 2 = 1.75; Q += .5 delta, gain += .2 * .5 delta.
    learner.add(0, 1, 1.0, 1)
    assert learner.rows[0][1] == pytest.approx(2.875) and learner.gain == pytest.approx(0.425)
    # Second visit, step size 1/4: delta = 0 - .425 + 2.875 - 2.875.
    learner.add(0, 1, 0.0, 0)
    assert learner.rows[0][1] == pytest.approx(2.875 - 0.25 * 0.425)


def test_rvi_q_step_by_hand() -> None:
    for reference, first in (("pair", 1.0), ("state", 2.0), ("mean", 1.25)):
        learner = RVIQLearner(2, 2, RVIQConfig(learning_rate=0.5, reference=reference), seed=0)  # type: ignore[arg-type]
        state = learner.get_state()
        state["values"], state["sum"], state["gain"] = np.array([[1.0, 2.0], [3.0, -1.0]]), 5.0, first
        learner.set_state(state)
        before = learner.rows[0][1]
        learner.add(0, 1, 1.0, 1)
        # delta = 1 - f + 3 - 2
        after = before + 0.5 * (2.0 - first)
        assert learner.rows[0][1] == pytest.approx(after)
        expected = {"pair": 1.0, "state": max(1.0, after), "mean": (5.0 + after - before) / 4}[reference]
        assert learner.gain == pytest.approx(expected)


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        (DifferentialQ, {"gain_rate": 0.2}),
        (RVIQ, {"reference": "pair"}),
        (RVIQ, {"reference": "state"}),
        (RVIQ, {"reference": "mean"}),
    ],
)
def test_q_learners_converge_to_the_exact_gain_and_values(agent: Any, settings: dict[str, Any]) -> None:
    mdp = random_process(3)
    model = agent(FiniteEnv(mdp=mdp), seed=0, epsilon=0.5, decay=0.6, learning_rate=1.0, **settings).learn(60_000)
    assert model.gain == pytest.approx(mdp.gain, abs=0.02)
    values = model.data.values
    np.testing.assert_allclose(values - values.max(), mdp.solution.values - mdp.solution.values.max(), atol=0.05)
    np.testing.assert_array_equal(model.policy, mdp.solution.policy)


@pytest.mark.slow
def test_differential_q_on_access_control_has_the_exact_gain() -> None:
    env = gymnasium.make("rlopt/AccessControl-v0").unwrapped
    model = DifferentialQ(env, seed=0, decay=0.51, learning_rate=1.0, gain_rate=0.05).learn(400_000)
    assert model.gain == pytest.approx(env.mdp.gain, abs=0.02)  # type: ignore[attr-defined]


def test_epsilon_greedy_explores_at_its_rate() -> None:
    learner = DifferentialQLearner(1, 4, DifferentialQConfig(epsilon=0.4), seed=0)
    learner.rows = [[0.0, 1.0, 0.0, 0.0]]
    actions = np.bincount([learner.act(0) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(actions, [0.1, 0.7, 0.1, 0.1], atol=0.013)


def test_optimistic_q_is_algorithm_one() -> None:
    mdp = random_process(0)
    H, T, scale, delta = 10.0, 2000, 0.02, 0.1
    env = FiniteEnv(mdp=mdp)
    model = OptimisticQ(env, seed=4, effective_horizon=H, bonus_scale=scale, span=2.0, delta=delta).learn(T)
    Q, Q_hat, n = np.full((3, 2), H * 1.0), np.full((3, 2), H * 1.0), np.zeros((3, 2))
    Q[:] = Q_hat[:] = H * mdp.reward_range[1]  # type: ignore[index]
    V_hat, other = Q_hat.max(axis=1), FiniteEnv(mdp=mdp)
    s, total = other.reset(seed=4)[0], 0.0
    for _ in range(T):
        a = int(Q_hat[s].argmax())
        t, r, *_ = other.step(a)
        n[s, a] += 1
        alpha, b = (H + 1) / (H + n[s, a]), scale * 2.0 * math.sqrt(H / n[s, a] * math.log(2 * T / delta))
        Q[s, a] = (1 - alpha) * Q[s, a] + alpha * (r + (1 - 1 / H) * V_hat[t] + b)
        Q_hat[s, a] = min(Q_hat[s, a], Q[s, a])
        V_hat[s] = Q_hat[s].max()
        s, total = t, total + r
    assert model.reward_sum == pytest.approx(total) and Q_hat.min() < H * mdp.reward_range[1] - 1  # type: ignore[index]
    np.testing.assert_allclose(model.data.rows, Q_hat, rtol=1e-12)


def test_optimistic_q_without_bonus_reaches_the_discounted_values_of_a_cycle() -> None:
    H, gamma = 5.0, 0.8
    learner = OptimisticQLearner(2, 1, H, 0.0, 1.0)
    for _ in range(3000):
        learner.add(0, 0, 1.0, 1)
        learner.add(1, 0, 0.0, 0)
    # V(0) = 1 + gamma V(1), V(1) = gamma V(0).
    first = 1 / (1 - gamma**2)
    np.testing.assert_allclose(learner.state_values, [first, gamma * first], rtol=1e-2)


# ---- linear


def test_fopo_switches_when_the_determinant_has_doubled() -> None:
    env = places()
    transitions: list[tuple[int, int]] = []
    last = [0]

    def record(locals_: Any, _: Any) -> bool:
        transitions.append((last[0], int(locals_["actions"][0])))
        last[0] = env.state
        return True

    model = FOPO(env, seed=0)
    model.learn(0)
    last[0] = env.state
    model.learn(1500, callback=record)
    gram = model.data.ridge * np.eye(model.dimension)
    base, expected = np.linalg.slogdet(gram)[1], [0]
    for step, (s, a) in enumerate(transitions, 1):
        phi = env.mdp.features[s, a]
        gram += np.outer(phi, phi)
        if np.linalg.slogdet(gram)[1] - base >= math.log(2) - 1e-9:
            base = np.linalg.slogdet(gram)[1]
            expected.append(step)
    assert [plan.step for plan in model.plans] == expected and len(expected) > 10


def test_olsvi_plan_is_lsvi_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    d, A, H, K, bonus, ridge = 4, 3, 6, 5, 0.3, 0.7
    table = rng.dirichlet(np.ones(d), size=(K, A))
    learner = OLSVILearner(d, A, H, bonus, ridge, 1.0)
    for features in table:
        learner.add_state(features)
    data = [(int(rng.integers(K)), int(rng.integers(A)), float(rng.uniform()), int(rng.integers(K))) for _ in range(40)]
    for transition in data:
        learner.add(*transition)
    learner.plan()
    gram = ridge * np.eye(d) + sum(np.outer(table[s, a], table[s, a]) for s, a, _, _ in data)
    following = np.zeros(K)
    for h in range(H - 1, -1, -1):
        w = np.linalg.solve(gram, sum(table[s, a] * (r + following[t]) for s, a, r, t in data))
        Q = np.array(
            [[min(p @ w + bonus * math.sqrt(p @ np.linalg.solve(gram, p)), H - h) for p in state] for state in table]
        )
        np.testing.assert_allclose(learner.action_values(table, h), Q, rtol=1e-9)
        following = Q.max(axis=1)
    assert learner.gain == pytest.approx(following.min() / H)
    learner.position = 2
    assert learner.act(3) == int(learner.action_values(table, 2)[3].argmax())


@pytest.mark.parametrize(("agent", "settings"), [(FOPO, {}), (OLSVIFH, {"episode_length": 40})])
def test_linear_agents_end_with_a_nearly_optimal_policy(agent: Any, settings: dict[str, Any]) -> None:
    env = places()
    model = agent(env, seed=0, **settings).learn(6000)
    policy = np.array([int(model.predict(np.array(s))[0]) for s in range(6)])
    assert evaluate_policy(env.mdp, policy).gain >= 0.97 * env.mdp.gain


# ---- all of them


@pytest.mark.parametrize("agent", [*TABULAR, *LINEAR])
def test_runs_repeat_by_seed_and_continue_exactly_after_saving(agent: Any, tmp_path: Path) -> None:
    def make() -> Any:
        return river() if agent in TABULAR else places()

    settings = {"horizon": 2400} if "horizon" in agent.config_class.__dataclass_fields__ else {}
    whole, again = (agent(make(), seed=5, **settings).learn(2400) for _ in range(2))
    assert whole.reward_sum == again.reward_sum
    first = agent(make(), seed=5, **settings).learn(1117)
    first.save(tmp_path / "agent")
    second = agent.load(tmp_path / "agent", env=first.env, force_reset=False)
    second.learn(2400 - 1117, reset_num_timesteps=False)
    assert (second.num_timesteps, second.reward_sum, second.gain) == (2400, whole.reward_sum, whole.gain)
    assert second.plans == whole.plans
    for name, value in whole.data.get_state().items():
        np.testing.assert_equal(second.data.get_state()[name], value)
    different = agent(make(), seed=6, **settings).learn(2400)
    assert different.reward_sum != whole.reward_sum


@pytest.mark.parametrize("agent", TABULAR)
def test_counting_agents_find_the_best_policy_of_an_easy_river(agent: Any) -> None:
    env = gymnasium.make("rlopt/RiverSwim-v0", n_states=3, kernel="gentle").unwrapped
    # Rewards are noisy there, so that one visit does not tell their mean.
    q_learning = {"decay": 0.6, "learning_rate": 1.0, "epsilon": 0.3}
    settings = {DifferentialQ: q_learning, RVIQ: q_learning, TSDE: {"rewards": "noisy"}, UCRL2: {"reward_scale": 0.5}}
    model = agent(env, seed=0, **settings.get(agent, {})).learn(20_000)
    assert evaluate_policy(env.mdp, model.policy).gain == pytest.approx(env.mdp.gain)  # type: ignore[attr-defined]


def test_relative_sweeps_bracket_the_gain() -> None:
    mdp = random_process(2)
    found = relative_sweeps(lambda v: mdp.r + mdp.P @ v, np.zeros(3), 1e-3, 1000)
    assert abs(found.gain - mdp.gain) <= found.error <= 1e-3
    assert relative_sweeps(lambda v: mdp.r + mdp.P @ v, np.zeros(3), 0.0, 7).sweeps == 7


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        DifferentialQ(river(), epsilo=0.1)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        DifferentialQ(river(), epsilon=1.5)
    with pytest.raises(SpaceError, match="UCRL2 counts"):
        UCRL2(gymnasium.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="feature_map"):
        OLSVIFH(river())
    with pytest.raises(ConfigError, match="call learn first"):
        TSDE(river()).predict(np.array(0))
    model = UCRL2(river(), seed=0).learn(50)
    model.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="UCRL2"):
        TSDE.load(tmp_path / "agent")
    model.data.model._transitions[3] += 1
    model.save(tmp_path / "wrong")
    with pytest.raises(CheckpointError, match="add up"):
        UCRL2.load(tmp_path / "wrong")
    with pytest.raises(ValueError, match="does not fit"):
        TSDE(river(), seed=0).learn(10).data.set_state({})


def test_every_peer_can_be_imported_from_the_package() -> None:
    from rlopt.agents.loop import baselines
    from rlopt.registry import AGENTS, resolve

    paths = [spec.algorithm for spec in AGENTS.values() if spec.algorithm.startswith(baselines.__name__)]
    peers = {path.partition(":")[2]: path for path in paths}
    assert set(peers) == set(baselines.__all__)
    for name, path in peers.items():
        assert getattr(baselines, name) is resolve(path)
