"""LOOP by the paper against brute force: discrepancy, both planners, switches, certificates, saving, refusals."""

import functools
import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.optimize import minimize
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnMaxEpisodes
from transitions import Recorder

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop import saving
from rlopt.agents.loop.baselines.optimistic_q import OptimisticQ
from rlopt.agents.loop.confidence_sets.planner import Problem, best_member, fixed_point
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.losses import ellipsoid_residual, pair_errors, tabular_discrepancy
from rlopt.average_reward import FiniteMDP, evaluate_policy, policy_iteration
from rlopt.envs.average_reward import ContinuingWrapper, FiniteEnv
from rlopt.errors import CheckpointError, ConfigError, NonFiniteError, SpaceError

LOOSE = Problem(span=1e3, smallest_reward=0.0, largest_reward=1e3, tolerance=1e-11, max_sweeps=100_000)
"""No clip and no cap comes into play, and the prior counts nothing."""


paper = functools.partial(rlopt.LOOP, procedure="paper")


def random_set(seed: int, states: int, actions: int, steps: int, problem: Problem = LOOSE) -> TabularSet:
    """Data of uniform actions in a random process, every transition at least once: every policy has one gain."""
    rng = np.random.default_rng(seed)
    P, r = rng.dirichlet(np.ones(states), size=(states, actions)), rng.uniform(size=(states, actions))
    data = TabularSet(states, actions, problem)
    for state, action, target in itertools.product(range(states), range(actions), range(states)):
        data.add(state, action, float(r[state, action]), target)
    for _ in range(steps):
        state, action = int(rng.integers(states)), int(rng.integers(actions))
        data.add(state, action, float(r[state, action]), int(rng.choice(states, p=P[state, action])))
    return data


def empirical(data: TabularSet, residual: Any = 0.0) -> FiniteMDP:
    counts = data.counts
    return FiniteMDP(data.transitions / counts[:, :, None], data.reward_sums / counts + residual)


def brute_discrepancy(seen: list[tuple[int, int, float, int]], targets: np.ndarray, values: np.ndarray) -> float:
    """L_D(f, f) - min_g L_D(f, g), the minimum over all g, from the transitions one by one."""
    own = sum((targets[s, a] - r - values[t]) ** 2 for s, a, r, t in seen)
    regressands: dict[tuple[int, int], list[float]] = {}
    for s, a, r, t in seen:
        regressands.setdefault((s, a), []).append(r + values[t])
    return own - sum(float(np.sum((np.array(y) - np.mean(y)) ** 2)) for y in regressands.values())


def river(n_states: int = 6, **kwargs: Any) -> Any:
    return gymnasium.make("rlopt/RiverSwim-v0", n_states=n_states, **kwargs).unwrapped


# ---- the mathematics


def test_discrepancy_by_hand() -> None:
    # One pair seen twice, rewards 0 and 1, V = 0: the best g is 1/2. f says 1: (1 + 0) - (1/4 + 1/4) = 1/2 = 2 (1/2)^2.
    errors = pair_errors(np.ones((1, 1)), np.full((1, 1), 2.0), np.ones((1, 1)), np.full((1, 1, 1), 2.0), np.zeros(1))
    assert errors.item() == 1.0 and tabular_discrepancy(errors, np.full((1, 1), 2.0)) == 0.5


def test_running_discrepancy_is_that_of_all_data_by_brute_force() -> None:
    env = Recorder(river())
    checked = []

    class Check(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % 97 == 0:
                data = self.model.data
                brute = brute_discrepancy(env.seen, data.targets, data.state_values)
                assert data.discrepancy == pytest.approx(brute, rel=1e-7, abs=1e-7)
                np.testing.assert_allclose(data.state_values, data.targets.max(axis=1) - data.gain, atol=1e-12)
                checked.append(brute)
            return True

    model = paper(env, seed=0).learn(3000, callback=Check())
    assert len(checked) == 30 and max(checked) > 1 and model.n_switches > 3
    counts = np.zeros((6, 2, 6))
    for s, a, _, t in env.seen:
        counts[s, a, t] += 1
    np.testing.assert_array_equal(model.data.transitions, counts)
    np.testing.assert_array_equal(model.data.counts, counts.sum(axis=2))
    assert model.reward_sum == pytest.approx(sum(r for _, _, r, _ in env.seen))


def test_ellipsoid_residual_is_the_numerical_optimum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        direction, counts, beta = rng.uniform(size=6), rng.uniform(1, 20, size=6), 3.0
        ours = ellipsoid_residual(direction, 1 / counts, beta)
        limit = {"type": "ineq", "fun": lambda b, n=counts, beta=beta: beta - np.sum(n * b**2)}
        found = minimize(lambda b, d=direction: -d @ b, np.zeros(6) + 0.01, constraints=limit, options={"ftol": 1e-14})
        assert direction @ ours == pytest.approx(-found.fun, rel=1e-6)
        assert np.sum(counts * ours**2) == pytest.approx(beta)
    assert not ellipsoid_residual(np.zeros(3), np.ones(3), 1.0).any()


def test_fixed_point_without_optimism_is_the_exact_solution() -> None:
    for env in (river(), river(9), gymnasium.make("rlopt/TwoChoiceLoop-v0").unwrapped):
        mdp = env.mdp
        point = fixed_point(lambda v, mdp=mdp: mdp.r + mdp.P @ v, np.zeros(mdp.n_states), LOOSE)
        assert point.gain == pytest.approx(mdp.gain, abs=1e-7)
        np.testing.assert_allclose(point.state_values, mdp.bias - mdp.bias.min(), atol=1e-5)


def test_bonus_plan_is_the_optimal_solution_of_the_empirical_process_with_bonus() -> None:
    for seed in range(10):
        data, beta = random_set(seed, 4, 3, 80), 0.9
        certificate = data.plan(beta, "bonus")
        bonus = np.sqrt(beta / 12 / data.counts)
        exact = policy_iteration(empirical(data, bonus))
        assert data.gain == pytest.approx(exact.gain, abs=1e-8)
        np.testing.assert_array_equal(data.policy, exact.policy)
        np.testing.assert_allclose(data.state_values, exact.bias - exact.bias.min(), atol=1e-6)
        # The bonus of every pair at its full share meets the set exactly.
        assert certificate.discrepancy == pytest.approx(beta, rel=1e-6) and certificate.converged
        assert certificate.clipped_states == 0


def test_ellipsoid_plan_against_the_global_optimum_over_all_policies() -> None:
    reached = 0
    for seed in range(30):
        data, beta = random_set(seed, 3, 2, 25), 0.5
        # For a policy the best residual is known in closed form: <mu, r> + sqrt(beta) |mu| weighted by 1/n.
        best, counts = -np.inf, data.counts
        for policy in itertools.product(range(2), repeat=3):
            solution = evaluate_policy(empirical(data), np.array(policy))
            mu = solution.stationary_distribution**2 / counts[np.arange(3), policy]
            best = max(best, solution.gain + np.sqrt(beta * mu.sum()))
        certificate = data.plan(beta, "ellipsoid")
        assert certificate.in_set and certificate.converged
        assert certificate.discrepancy == pytest.approx(beta, rel=1e-4)
        assert data.gain <= best + 1e-6
        low, high = certificate.gain_bracket
        assert low == data.gain and high is not None and best <= high + 1e-6
        reached += data.gain >= best - 1e-6
        bonus = random_set(seed, 3, 2, 25)
        bonus.plan(beta, "bonus")
        assert data.gain >= bonus.gain - 1e-6
    assert reached >= 24  # a local optimum, but mostly the global one


def test_unvisited_pairs_are_worth_the_most_and_gains_stay_within_rewards() -> None:
    problem = Problem(span=2.0, smallest_reward=0.0, largest_reward=1.0, tolerance=1e-9, max_sweeps=10_000)
    data = TabularSet(3, 2, problem)
    for _ in range(50):
        data.add(0, 0, 0.2, 0)
    for planner in ("bonus", "ellipsoid"):
        certificate = data.plan(0.3, planner)
        assert data.policy[0] == 1 and data.gain == pytest.approx(1.0, abs=1e-6) and certificate.in_set
        # Every state has an unvisited action, worth 1 now and the best afterwards: no state is better than another.
        np.testing.assert_allclose(data.state_values, 0.0, atol=1e-6)
        np.testing.assert_allclose(data.targets[1:], 1.0, atol=1e-6)


def test_best_member_prefers_the_set() -> None:
    assert best_member([3.0, 2.0, 1.0], [9.0, 0.5, 0.1], beta=1.0) == 1
    assert best_member([3.0, 2.0], [9.0, 5.0], beta=1.0) == 1


# ---- the agent


@pytest.mark.parametrize("planner", ["bonus", "ellipsoid"])
def test_learns_river_swim_with_few_switches(planner: Any) -> None:
    env = river()
    model = paper(env, planner=planner, seed=1).learn(20_000)
    optimal = env.mdp.gain * 20_000
    # Always going left, which eps-greedy agents learn, is worth .005 a step; the best policy's own noise is near 100.
    assert model.reward_sum > 0.9 * optimal
    np.testing.assert_array_equal(model.policy, env.mdp.solution.policy)
    assert model.n_switches <= 12 * np.log2(20_000) / 4
    assert all(plan.certificate.converged for plan in model.plans)


def test_switches_exactly_when_four_beta_is_reached() -> None:
    seen = []

    class Trace(BaseCallback):
        def _on_step(self) -> bool:
            seen.append((self.num_timesteps, len(self.model.plans), self.model.discrepancy))
            return True

    env = Recorder(river())
    model = paper(env, seed=3, span=river().mdp.span).learn(5000, callback=Trace())
    switches = {plan.step for plan in model.plans}
    assert model.n_switches > 3
    for step, plans, discrepancy in seen:
        if step in switches:
            assert discrepancy <= model.beta * (1 + 1e-6), "a new plan is in the set"
        else:
            assert discrepancy < 4 * model.beta
        assert plans == sum(s <= step for s in switches)
    # Just before each switch the old plan had reached the threshold: recomputed from the transitions alone.
    for before, plan in itertools.pairwise(model.plans):
        copy = paper(Recorder(river()), seed=3, horizon=5000, span=model.span)
        copy.learn(plan.step - 1)
        targets, values = copy.data.targets, copy.data.state_values
        assert copy.plans[-1] == before
        assert brute_discrepancy(env.seen[: plan.step - 1], targets, values) < 4 * model.beta
        assert brute_discrepancy(env.seen[: plan.step], targets, values) >= 4 * model.beta * (1 - 1e-9)


@pytest.mark.parametrize("planner", ["bonus", "ellipsoid"])
def test_optimism_and_coverage_at_theorys_scale(planner: Any) -> None:
    plans = 0
    for seed in range(6):
        env = river(3, kernel="gentle")
        model = paper(env, planner=planner, beta_scale=1.0, seed=seed).learn(10_000)
        mdp, data = env.mdp, model.data
        for plan in model.plans:
            assert plan.gain >= mdp.gain - 1e-6
            plans += 1
        values = mdp.bias - mdp.bias.min()
        truth = mdp.r + mdp.P @ values
        errors = pair_errors(truth, data.counts, data.reward_sums, data.transitions, values)
        assert tabular_discrepancy(errors, data.counts) <= model.beta, "the truth is in the set"
    assert plans >= 20


@pytest.mark.parametrize(
    "make", [functools.partial(paper, beta_scale=1e-3), functools.partial(rlopt.MLELOOP, model="tabular")]
)
def test_without_a_span_h_doubles_up_to_that_of_the_process(make: Any) -> None:
    """Neither a state that nothing reaches nor a first call of learn that is short makes H another one."""

    class Roomier(gymnasium.Wrapper[Any, Any, Any, Any]):
        observation_space = gymnasium.spaces.Discrete(7)

    assert 4 < river().mdp.span < 8
    for env in (river(), Roomier(river())):
        model = make(env, seed=0, reward_range=(0, 1), horizon=3000).learn(3000)
        assert model.span == 8
        assert model.plans[-1].gain == pytest.approx(river().mdp.gain, abs=0.12), "the last plan is not one of hopes"
    model = make(river(), seed=0)
    model.learn(1)
    assert model.learn(3000, reset_num_timesteps=False).span == 8


def test_underestimated_span_is_certified_and_does_not_replan_for_ever() -> None:
    # Two states in turn, paid 1 and 0: gain 1/2, span 1/2. With the span .01 the values explain neither reward.
    swap = np.repeat(np.eye(2)[::-1][:, None], 2, axis=1)
    env = FiniteEnv(mdp=FiniteMDP(swap, np.array([[1.0, 1.0], [0.0, 0.0]])))
    assert env.mdp.gain == pytest.approx(0.5) and env.mdp.span == pytest.approx(0.5)
    for planner in ("bonus", "ellipsoid"):
        model = paper(env, planner=planner, span=0.01, seed=0).learn(4000)
        assert not model.plans[-1].certificate.in_set and model.plans[-1].certificate.clipped_states > 0
        assert model.n_switches < 40
        for plan in model.plans:
            assert plan.certificate.in_set == (plan.certificate.discrepancy <= model.beta * (1 + 1e-6))


def test_runs_are_reproducible_and_indifferent_to_shift_and_scale_of_rewards() -> None:
    def actions(scale: float, shift: float, seed: int = 5) -> list[int]:
        mdp = river().mdp
        env = Recorder(FiniteEnv(mdp=FiniteMDP(mdp.P, scale * mdp.r + shift, (shift, scale + shift))))
        paper(env, seed=seed).learn(3000)
        return [a for _, a, _, _ in env.seen]

    assert actions(1.0, 0.0) == actions(1.0, 0.0) != actions(1.0, 0.0, seed=6)
    assert actions(1.0, 0.0) == actions(4.0, 0.0)
    # A shift changes the rounding of every number: equal but for ties that fall the other way.
    assert np.mean(np.array(actions(1.0, 0.0)) == np.array(actions(1.0, 2.0))) > 0.5


def test_same_run_through_every_kind_of_environment() -> None:
    runs = []
    for env in (
        river(),
        gymnasium.make("rlopt/RiverSwim-v0"),
        rlopt.make_env("rlopt/RiverSwim-v0"),
        "rlopt/RiverSwim-v0",
    ):
        model = paper(env, seed=7).learn(2000)
        runs.append((model.n_switches, model.num_timesteps, model.predict(2)[0].item()))
        assert model.get_env() is not None and model.plans[-1].certificate.in_set
    assert len({steps for _, steps, _ in runs}) == 1 and runs[0] == runs[1]


def test_save_and_load_continue_exactly(tmp_path: Path) -> None:
    whole = Recorder(river())
    expected = paper(whole, seed=2, horizon=4000).learn(4000)
    env = Recorder(river())
    first = paper(env, seed=2, horizon=4000).learn(1700)
    folder = first.save(tmp_path / "agent")
    second = rlopt.LOOP.load(folder, env=env, force_reset=False)
    assert second.discrepancy == first.discrepancy and second.beta == first.beta and second.plans == first.plans
    second.learn(2300, reset_num_timesteps=False)
    assert env.seen == whole.seen and second.plans == expected.plans
    assert second.num_timesteps == 4000 and second.discrepancy == expected.discrepancy
    for path in folder.rglob("*"):
        assert path.suffix in (".json", ".safetensors")
    assert first.save(folder) == folder, "its own folder is replaced"
    for state in range(6):
        assert rlopt.LOOP.load(folder).predict(state)[0] == first.predict(state)[0]
    fresh = paper(river(), seed=2).save(tmp_path / "fresh")
    assert rlopt.LOOP.load(fresh, env=river()).learn(50).num_timesteps == 50


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = paper(river(), seed=2).learn(300).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="does not exist"):
        rlopt.LOOP.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="it holds a LOOP"):
        rlopt.LinearLOOP.load(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="not replaced"):
        paper(river()).save(tmp_path / "other")
    with pytest.raises(SpaceError, match="learns in"):
        rlopt.LOOP.load(folder, env=river(7))
    tensors = folder / "agent.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(CheckpointError, match="damaged"):
        rlopt.LOOP.load(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plans", 0, "certificate", "beta"), "big"),
        (("plans", 0, "certificate", "in_set"), 1),
        (("plans", 0, "gain"), float("nan")),
        (("plans",), []),
        (("settings", "beta_scale"), -1.0),
        (("settings", "colour"), 1),
        (("state",), 6),
        (("span",), float("inf")),
        (("observation_space", "n"), 10**9),
        (("observation_space", "n"), 7),
    ],
)
def test_forged_folders_are_refused(path: Any, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = saving.replace_checked

    def forge(folder: Path, kind: Any, trees: Any) -> Path:
        place = trees["agent"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return write(folder, kind, trees)

    monkeypatch.setattr(saving, "replace_checked", forge)
    folder = paper(river(), seed=2).learn(300).save(tmp_path / "agent")
    with pytest.raises(CheckpointError):
        rlopt.LOOP.load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transitions", -np.ones((6, 2, 6), np.int64)),
        ("policy", np.full(6, 2, np.int64)),
        ("state_values", np.full(6, np.nan)),
        ("counts", np.zeros((5, 2))),
        ("gain", "high"),
    ],
)
def test_forged_states_are_refused(name: str, value: Any) -> None:
    data = TabularSet(6, 2, LOOSE)
    with pytest.raises(ValueError, match=r"fit|negative|actions"):
        data.set_state({**data.get_state(), name: value})


def test_callbacks_stop_save_and_log(tmp_path: Path) -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 120

    env = river()
    assert paper(env, seed=0).learn(1000, callback=Stop()).num_timesteps == 120
    calls: list[int] = []
    paper(env, seed=0).learn(50, callback=lambda locals_, globals_: calls.append(locals_["rewards"][0]) or True)
    assert len(calls) == 50
    model = paper(env, seed=0, tensorboard_log=str(tmp_path / "tb"))
    saver = CheckpointCallback(200, str(tmp_path / "saves"), name_prefix="loop")
    model.learn(400, callback=[saver, StopTrainingOnMaxEpisodes(1)], log_interval=100)
    loaded = rlopt.LOOP.load(tmp_path / "saves" / "loop_400_steps.zip")
    assert loaded.num_timesteps == 400 and list((tmp_path / "tb").rglob("events*"))


def test_predict_takes_one_observation_or_a_batch() -> None:
    model = paper(river(), seed=0)
    with pytest.raises(ConfigError, match="call learn first"):
        model.predict(0)
    model.learn(500)
    batch, state = model.predict(np.arange(6))
    assert batch.shape == (6,) and state is None and batch.tolist() == model.policy.tolist()
    assert model.predict(3)[0].shape == () and model.action_space.contains(int(model.predict(3)[0]))
    for bad in (6, np.zeros((2, 2), int)):
        with pytest.raises(SpaceError):
            model.predict(bad)


class Odd(gymnasium.Env[int, int]):
    """Two states; gives whatever reward and end it was told to."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward: float = 0.5, end: bool = False) -> None:
        self.reward, self.end = reward, end

    def reset(self, **_: Any) -> Any:
        return 0, {}

    def step(self, action: int) -> Any:
        return action, self.reward, self.end, False, {}


def test_bad_input_is_refused_with_the_cure() -> None:
    known = {"span": 1.0, "reward_range": (0.0, 1.0)}
    with pytest.raises(ConfigError, match="ContinuingWrapper"):
        paper(Odd(end=True), **known).learn(5)
    paper(ContinuingWrapper(Odd(end=True)), **known).learn(5)
    with pytest.raises(ConfigError, match=r"reward of step 1 is 1.5, outside reward_range \(0.0, 1.0\)"):
        paper(Odd(1.5), **known).learn(5)
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="reward of step 1"):
            paper(Odd(bad), **known).learn(5)
    with pytest.raises(ConfigError, match="span is not given"):
        OptimisticQ(Odd(), reward_range=(0, 1))
    with pytest.raises(ConfigError, match="reward_range is not given"):
        paper(Odd(), span=1.0)
    with pytest.raises(ConfigError, match="smaller first"):
        paper(Odd(), span=1.0, reward_range=(1, 0))
    with pytest.raises(SpaceError, match="LinearLOOP"):
        paper("CartPole-v1", **known)
    with pytest.raises(SpaceError, match="does not count from 0"):
        shifted = Odd()
        shifted.action_space = gymnasium.spaces.Discrete(2, start=1)
        paper(shifted, **known)
    with pytest.raises(ConfigError, match="n_envs=1"):
        paper(rlopt.make_env("rlopt/RiverSwim-v0", n_envs=2))
    for name, value in (("span", 0), ("span", -1), ("beta_scale", 0), ("switch_multiplier", 1), ("planner", "bonsu")):
        with pytest.raises(ConfigError, match=name):
            paper(river(), **{name: value})
    with pytest.raises(ConfigError, match="no environment"):
        paper(None).learn(5)
    with pytest.raises(ConfigError, match="total_timesteps"):
        paper(river()).learn(-1)


README = Path(__file__).resolve().parents[3] / "agents" / "loop" / "README.md"


def test_page_names_functions_that_exist_and_its_snippets_run() -> None:
    import re

    text = README.read_text()
    sources = "".join(path.read_text() for path in README.parent.rglob("*.py"))
    column = "".join(line.rsplit("|", 2)[1] for line in text.splitlines() if re.match(r"\| \(\d\) ", line))
    names = {name.rsplit(".", 1)[-1] for name in re.findall(r"`([\w.]+)`", column)}
    assert len(names) > 12
    for name in names:
        assert re.search(rf"(def|class) {name}\b", sources), name
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
