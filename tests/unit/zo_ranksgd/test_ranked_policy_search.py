"""RankedPolicySearch: rounds played side by side, budgets, callbacks, saving."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import rlopt
from rlopt.agents.zo_ranksgd.policies.candidates import CandidateEvaluator, round_seeds
from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.envs.settings import EnvSettings
from rlopt.errors import CheckpointError, ConfigError, NonFiniteError, SpaceError, UnknownNameError
from rlopt.feedback.oracles import LazyOracle, ReturnOracle
from rlopt.feedback.ranking import Ranking

SMALL = {"m": 4, "k": 4, "line_search_points": 4, "seed": 0}


def search(env: Any = "CartPole-v1", policy: Any = "LinearPolicy", **kwargs: Any) -> RankedPolicySearch:
    return RankedPolicySearch(policy, env, **{**SMALL, **kwargs})


def around(model: RankedPolicySearch, count: int, scale: float = 0.3) -> np.ndarray:
    return model.point + scale * np.random.default_rng(1).standard_normal((count, len(model.point)))


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(np.array_equal(first, second)) if isinstance(first, np.ndarray) else first == second


# ---- rounds


@pytest.mark.parametrize(
    ("env", "backend", "policy"),
    [
        ("CartPole-v1", "gymnasium", "MlpPolicy"),
        ("Pendulum-v1", "gymnasium", "LinearPolicy"),
        ("InvertedPendulum-v5", "envpool", "LinearPolicy"),
        ("Hopper-v5", "envpool", "MlpPolicy"),
        ("Swimmer-v5", "gymnasium", "LinearPolicy"),
    ],
)
@pytest.mark.parametrize("common", [True, False])
def test_a_batch_is_the_candidates_one_by_one(env: str, backend: str, policy: str, common: bool) -> None:
    settings = EnvSettings(env, backend=backend, max_episode_steps=60, action_repeat=2)
    many = search(settings, policy, episodes_per_candidate=2).learn(10**6, total_queries=2)
    assert many.env is not None and many.env.num_envs == 8
    one = search(settings, policy, max_envs=1)
    assert one.env is not None and one.env.num_envs == 1
    candidates, seeds = around(many, 5), round_seeds(7, 3, 5, 2, common)
    together = CandidateEvaluator(many.env, many.policy_vector).evaluate(candidates, seeds, many.normalizer)
    alone = CandidateEvaluator(one.env, many.policy_vector)
    for index in range(5):
        result = alone.evaluate(candidates[index : index + 1], seeds[index : index + 1], many.normalizer)
        assert np.array_equal(result.episode_returns[0], together.episode_returns[index])
        assert np.array_equal(result.lengths[0], together.lengths[index])
    assert len(set(together.returns)) > 1 and together.moments.count == together.steps


def test_common_random_numbers() -> None:
    twins = np.repeat(around(search("Pendulum-v1"), 1), 3, axis=0)
    for common in (True, False):
        model = search("Pendulum-v1", common_random_numbers=common, episodes_per_candidate=2)
        seeds = round_seeds(0, 0, 3, 2, common)
        assert model.env is not None
        returns = CandidateEvaluator(model.env, model.policy_vector).evaluate(twins, seeds, model.normalizer)
        assert len(np.unique(returns.episode_returns)) == (2 if common else 6)
        assert len(np.unique(returns.seeds)) == (2 if common else 6)
    first, later, other = round_seeds(0, 0, 3, 2, True), round_seeds(0, 1, 3, 2, True), round_seeds(1, 0, 3, 2, True)
    assert not set(first.ravel()) & set(later.ravel()) and not set(first.ravel()) & set(other.ravel())


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_any_vec_env_plays_the_same_episodes(vec_env: Any) -> None:
    env = VecMonitor(vec_env([lambda: gymnasium.make("CartPole-v1")] * 2))
    foreign = search(env).learn(10**6, total_queries=4)
    own = search(EnvSettings("CartPole-v1", backend="gymnasium")).learn(10**6, total_queries=4)
    env.close()
    assert foreign.num_timesteps == own.num_timesteps and np.array_equal(foreign.point, own.point)
    alone = search(gymnasium.make("CartPole-v1")).learn(10**6, total_queries=4)
    assert np.array_equal(alone.point, own.point)


class Watch(BaseCallback):
    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.rounds: list[Any] = []
        self.stop_after = stop_after

    def _on_step(self) -> bool:
        assert self.locals["dones"].all() and len(self.locals["infos"]) == len(self.locals["rewards"])
        self.rounds.append(self.locals["round"])
        return self.stop_after is None or self.n_calls < self.stop_after


def test_statistics_of_observations_are_frozen_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlopt.agents.zo_ranksgd.policies.observations import Normalizer

    seen: list[tuple[np.ndarray, dict[str, Any]]] = []
    original = Normalizer.apply

    def apply(self: Normalizer, values: np.ndarray) -> np.ndarray:
        seen.append((values.copy(), self.get_state()))
        return original(self, values)

    monkeypatch.setattr(Normalizer, "apply", apply)
    watch = Watch()
    model = search("Pendulum-v1", max_envs=2)
    everything = np.zeros((0, 3))
    for number in range(3):
        model.learn(10**6, watch, total_queries=number + 1, reset_num_timesteps=False)
        recorded = watch.rounds[-1].observation_statistics
        assert seen and all(same(state, recorded) for _, state in seen)
        assert recorded["count"] == len(everything)
        everything = np.concatenate([everything, *(values for values, _ in seen)])
        seen.clear()
        np.testing.assert_allclose(model.normalizer.mean, everything.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(model.normalizer.variance, everything.var(axis=0), rtol=1e-9)
    raw = search("Pendulum-v1", normalize_observations=False).learn(10**6, total_queries=1)
    assert raw.normalizer.count == 0 and np.array_equal(raw.normalizer.apply(everything), everything)


class Cliff(gymnasium.Env[Any, Any]):
    """A step: the reward is the action, not finite where it is above .5."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, bad: float = math.nan) -> None:
        self.bad = bad

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        value = float(action[0])
        return np.zeros(1, np.float32), self.bad if value > 0.5 else value, True, False, {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_returns_that_are_not_finite_rank_last(bad: float) -> None:
    watch = Watch()
    model = search(Cliff(bad), m=20, k=20, smoothing=0.5).learn(10**6, watch, total_queries=1)
    returns, answer = watch.rounds[0].evaluation.returns, watch.rounds[0].answers[0]
    assert 0 < np.isnan(returns).sum() < 20
    assert set(answer.unranked) == set(np.flatnonzero(np.isnan(returns)))
    assert all(math.isfinite(episode["r"]) for episode in model.ep_info_buffer)
    assert "zo_ranksgd/non_finite_candidates" in model.log_values
    model.learn(10**6, total_queries=40, reset_num_timesteps=True)
    assert 0 < model.predict(np.zeros(1, np.float32))[0][0] <= 0.5


def test_parameters_that_are_not_finite_are_refused() -> None:
    model = search()
    candidates = around(model, 4)
    candidates[2, 0] = np.nan
    assert model.env is not None
    evaluator = CandidateEvaluator(model.env, model.policy_vector)
    with pytest.raises(NonFiniteError, match="candidate 2 has parameters"):
        evaluator.evaluate(candidates, round_seeds(0, 0, 4, 1, True), model.normalizer)
    # Actions that overflow are the candidate's fault, and end its episode.
    huge = search("Pendulum-v1", "MlpPolicy", normalize_observations=False)
    huge_candidates = around(huge, 4)
    huge_candidates[1] = 1e38
    huge_candidates[1, ::2] = -1e38
    assert huge.env is not None
    with np.errstate(all="ignore"):
        result = CandidateEvaluator(huge.env, huge.policy_vector).evaluate(
            huge_candidates, round_seeds(0, 0, 4, 1, True), huge.normalizer
        )
    assert np.isnan(result.returns).tolist() == [False, True, False, False] or np.isfinite(result.returns).all()


class Endless(Cliff):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_an_episode_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlopt.agents.zo_ranksgd.policies.candidates.LONGEST_EPISODE", 50)
    with pytest.raises(ConfigError, match="has not ended after 50 steps"):
        search(Endless()).learn(100)


# ---- learning


def test_budgets() -> None:
    watch = Watch()
    model = search(episodes_per_candidate=3).learn(10**6, watch, total_episodes=100)
    assert model.num_episodes == 96 and model.num_queries == len(watch.rounds) == 8  # 12 episodes each: 9 would be 108
    assert model.num_timesteps == sum(played.evaluation.steps for played in watch.rounds)
    assert [played.query.kind for played in watch.rounds[:4]] == ["gradient", "line_search"] * 2
    assert search(total_episodes=20).learn(10**6).num_episodes == 20
    one = search().learn(1)
    assert one.num_queries == 1 and one.num_timesteps >= 4
    one.learn(1, reset_num_timesteps=False)
    assert one.num_queries == 2 and one.optimizer.iteration == 2


def test_callbacks(tmp_path: Path) -> None:
    watch = Watch(stop_after=3)
    model = search()
    evaluate = EvalCallback(gymnasium.make("CartPole-v1"), n_eval_episodes=2, eval_freq=2, verbose=0, warn=False)
    keep = CheckpointCallback(save_freq=2, save_path=str(tmp_path), name_prefix="search")
    model.learn(10**6, [watch, evaluate, keep])
    assert len(watch.rounds) == 3 and model.num_queries == 3 and evaluate.last_mean_reward > 0
    assert len(list(tmp_path.iterdir())) == 1
    calls: list[int] = []
    model.learn(10**6, lambda values, _: calls.append(values["self"].num_queries) or len(calls) < 2)
    assert calls == [1, 2]


def test_the_best_ranked_way_is_taken() -> None:
    """The mean of an action is learnt: the optimum of -(action - .3)^2 is known."""

    class Target(Cliff):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(1, np.float32), -((float(action[0]) - 0.3) ** 2), True, False, {}

    for oracle, tolerance in (("return", 0.05), (LazyOracle(ReturnOracle(), 0.5), 0.05), ("noisy", 0.15)):
        model = search(Target(), oracle=oracle, m=8, k=8, smoothing=0.1, line_search_points=8).learn(
            10**6, total_queries=60
        )
        assert model.predict(np.zeros(1, np.float32))[0][0] == pytest.approx(0.3, abs=tolerance)


def test_annotators_are_added_up() -> None:
    watch = Watch()
    search(oracle="noisy", annotators=3, temperature=1.0).learn(10**6, watch, total_queries=3)
    assert all(len(played.answers) == 3 for played in watch.rounds)
    assert len({answer for played in watch.rounds for answer in played.answers}) > 3


def test_an_oracle_of_ones_own() -> None:
    class Worst:
        def rank(self, returns: np.ndarray, k: int, rng: np.random.Generator) -> Ranking:
            return ReturnOracle().rank(-returns, k, rng)

    model = search(oracle=Worst()).learn(10**6, total_queries=2)
    assert model.num_queries == 2


# ---- Stable-Baselines3's surface


@pytest.mark.parametrize("policy", ["LinearPolicy", "MlpPolicy"])
def test_predict_evaluate_and_set_env(policy: str) -> None:
    model = search("Pendulum-v1", policy).learn(10**6, total_queries=3)
    action, state = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert state is None and model.action_space.contains(action)
    batch, _ = model.predict(np.zeros((5, 3), np.float32))
    assert batch.shape == (5, 1) and np.array_equal(batch[0], action)
    mean, std = evaluate_policy(model, gymnasium.make("Pendulum-v1"), n_eval_episodes=2, warn=False)
    assert -2000 < mean < 0 <= std
    assert rlopt.evaluate(model, "Pendulum-v1", 2).returns.shape == (2,)
    model.set_env(rlopt.make_env("Pendulum-v1", n_envs=2, seed=3))
    assert model.learn(10**6, total_queries=4, reset_num_timesteps=False).num_queries == 4
    with pytest.raises(SpaceError, match="was made for"):
        model.set_env("CartPole-v1")
    with pytest.raises(SpaceError, match="does not fit"):
        model.predict(np.zeros((5, 4), np.float32))


def test_predict_is_the_candidate_that_was_ranked() -> None:
    model = search("Pendulum-v1", "MlpPolicy", episodes_per_candidate=1).learn(10**6, total_queries=3)
    seeds = round_seeds(5, 5, 1, 1, True)
    assert model.env is not None
    played = CandidateEvaluator(model.env, model.policy_vector).evaluate(model.point[None], seeds, model.normalizer)
    env = model.env
    observation = env.start_episodes(seeds[0].tolist())  # type: ignore[attr-defined]
    total, ended = 0.0, False
    while not ended:
        action, _ = model.predict(observation[0])
        observation, rewards, ends = env.step_rows(np.array([0]), action[None])  # type: ignore[attr-defined]
        total, ended = total + float(rewards[0]), bool(ends[0])
    assert total == played.returns[0]


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        ("FrozenLake-v1", "LinearPolicy"),
        ("Acrobot-v1", "MlpPolicy"),
        ("dm_control/cartpole-balance", "LinearPolicy"),
        ("PointMaze_UMaze-v3", "MultiInputPolicy"),
        ("PointMaze_UMaze-v3", "LinearPolicy"),
    ],
)
def test_kinds_of_environments(env: str, policy: str) -> None:
    model = search(EnvSettings(env, max_episode_steps=20), policy, m=2, k=2, line_search_points=2)
    first, second = (
        model.learn(10**6, total_queries=2),
        search(EnvSettings(env, max_episode_steps=20), policy, m=2, k=2, line_search_points=2).learn(
            10**6, total_queries=2
        ),
    )
    assert model.num_episodes == 4 and np.array_equal(first.point, second.point)
    observation = model.observation_space.sample()
    assert model.action_space.contains(model.predict(observation)[0])


class Camera(Cliff):
    """Random images, channels first or last; the reward is the action."""

    def __init__(self, last: bool = False, named: bool = False) -> None:
        super().__init__()
        self.last, self.named = last, named
        images = spaces.Box(0, 255, (36, 36, 3) if last else (3, 36, 36), np.uint8)
        self.observation_space = spaces.Dict({"camera": images}) if named else images

    def image(self) -> Any:
        image = self.np_random.integers(0, 256, (3, 36, 36), np.uint8)
        image = image.transpose(1, 2, 0) if self.last else image
        return {"camera": image} if self.named else image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.image(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.image(), float(action[0]), False, True, {}


ONE_STEP: dict[str, Any] = {"normalize_observations": False, "m": 2, "k": 2, "line_search_points": 2}


def test_images() -> None:
    model = search(Camera(), "CnnPolicy", **ONE_STEP)
    before = model.point.copy()
    assert not np.array_equal(model.learn(10**6, total_queries=4).point, before)
    with pytest.raises(ConfigError, match="normalize_observations=False"):
        search(Camera(), "CnnPolicy")


@pytest.mark.parametrize(("policy", "named"), [("CnnPolicy", False), ("MultiInputPolicy", True)])
def test_images_with_their_channels_last_are_seen_as_with_channels_first(policy: str, named: bool) -> None:
    first, last = (
        search(Camera(last, named), policy, **ONE_STEP).learn(10**6, total_queries=2) for last in (False, True)
    )
    assert np.array_equal(first.point, last.point)
    image = np.random.default_rng(0).integers(0, 256, (3, 36, 36), np.uint8)
    seen, turned = ({"camera": x} if named else x for x in (image, image.transpose(1, 2, 0)))
    assert np.array_equal(first.predict(seen)[0], last.predict(turned)[0])
    reward = [model.last_round.evaluation.returns for model in (first, last)]
    assert np.array_equal(*reward)


# ---- saving


@pytest.mark.parametrize(
    ("policy", "kwargs"),
    [
        ("LinearPolicy", {"oracle": "noisy", "subspace": 3}),
        ("MlpPolicy", {"policy_kwargs": {"net_arch": [8], "activation_fn": "relu"}}),
    ],
)
@pytest.mark.parametrize("queries", [3, 4])
def test_a_saved_search_goes_on_bit_for_bit(policy: str, kwargs: Any, queries: int, tmp_path: Path) -> None:
    whole = search("Pendulum-v1", policy, **kwargs).learn(10**6, total_queries=8)
    part = search("Pendulum-v1", policy, **kwargs).learn(10**6, total_queries=queries)
    path = part.save(tmp_path / "search")
    loaded = RankedPolicySearch.load(path)
    assert np.array_equal(loaded.point, part.point) and loaded.env is None
    observation = np.array([0.3, -0.2, 1.0], np.float32)
    assert np.array_equal(loaded.predict(observation)[0], part.predict(observation)[0])
    loaded.set_env("Pendulum-v1")
    loaded.learn(10**6, total_queries=8, reset_num_timesteps=False)
    assert np.array_equal(loaded.point, whole.point) and loaded.optimizer.digest() == whole.optimizer.digest()
    assert same(loaded.training_trees(), whole.training_trees())


def test_what_files_do_not_hold_must_be_given(tmp_path: Path) -> None:
    class Mine(ReturnOracle):
        pass

    model = search(oracle=Mine()).learn(10**6, total_queries=1)
    path = model.save(tmp_path / "search")
    with pytest.raises(ConfigError, match="give the one that ranks"):
        RankedPolicySearch.load(path, "CartPole-v1").learn(100)
    again = RankedPolicySearch.load(path, "CartPole-v1", oracle=Mine()).learn(10**6, total_queries=2)
    assert again.num_queries == 2
    from stable_baselines3.common.policies import ActorCriticPolicy

    by_class = search(policy=ActorCriticPolicy)
    path = by_class.save(tmp_path / "by_class")
    with pytest.raises(CheckpointError, match="give it as policy"):
        RankedPolicySearch.load(path)
    assert np.array_equal(RankedPolicySearch.load(path, policy=ActorCriticPolicy).point, by_class.point)


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    from rlopt.agents.zo_ranksgd.policies import saving as policy_saving
    from rlopt.storage.checked_folder import write_checked

    model = search().learn(10**6, total_queries=1)
    tree = policy_saving.tree_of(model)
    for name, value in {
        "settings": {**tree["settings"], "m": 1},
        "policy": "os.system",
        "num_queries": -1,
        "optimizer": {},
        "normalizer": {**tree["normalizer"], "count": 1.5},
        "oracle": {"oracle": "Popen"},
        "episodes": [[math.nan, 1]],
        "observation_space": {"type": "Box"},
    }.items():
        write_checked(tmp_path / name, policy_saving.KIND, {"agent": {**tree, name: value}}, {}, {})
        with pytest.raises(CheckpointError, match=f"{name} (cannot be loaded|does not hold)"):
            RankedPolicySearch.load(tmp_path / name)
    forged = {**tree, "policy": "MlpPolicy", "settings": {**tree["settings"], "net_arch": [65536, 65536]}}
    write_checked(tmp_path / "forged", policy_saving.KIND, {"agent": forged}, {}, {})
    with pytest.raises(CheckpointError, match="larger networks"):
        RankedPolicySearch.load(tmp_path / "forged")
    with pytest.raises(CheckpointError, match="does not exist"):
        RankedPolicySearch.load(tmp_path / "nothing")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    with pytest.raises(CheckpointError, match="not replaced"):
        model.save(tmp_path / "precious")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: search(k=5), ConfigError, "k = 5 is more than m = 4"),
        (lambda: search(m=1), ConfigError, "m = 1 is outside"),
        (lambda: search(smothing=0.1), ConfigError, "did you mean 'smoothing'"),
        (lambda: search(oracle="humen"), ConfigError, "did you mean 'human'"),
        (lambda: search(policy="MlpPolcy"), ConfigError, "did you mean 'MlpPolicy'"),
        (lambda: search(3), ConfigError, "not int"),
        (lambda: search(VecNormalize(rlopt.make_env("CartPole-v1"))), ConfigError, "under it"),
        (lambda: search("CartPole-v2"), UnknownNameError, "CartPole-v1"),
        (lambda: search(oracle="human").learn(10), ConfigError, "no oracle"),
        (lambda: search(None).learn(10), ConfigError, "no environment"),
        (lambda: search().learn(1.5), ConfigError, "whole number"),
        (lambda: search().learn(10, total_episodes=0), ConfigError, "total_episodes is 0"),
    ],
)
def test_bad_input_is_told_in_one_line(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# ---- it learns


@pytest.mark.slow
def test_balances_the_pendulum_from_rankings_alone() -> None:
    model = RankedPolicySearch("LinearPolicy", "InvertedPendulum-v5", seed=0).learn(10**6, total_episodes=400)
    assert model.num_episodes <= 400
    assert rlopt.evaluate(model, "InvertedPendulum-v5", 10).mean >= 900


@pytest.mark.slow
def test_balances_the_cart_with_a_network_and_a_noisy_person() -> None:
    kwargs: dict[str, Any] = {"oracle": "noisy", "m": 12, "k": 6, "smoothing": 0.1, "policy_kwargs": {"net_arch": [16]}}
    model = RankedPolicySearch("MlpPolicy", "CartPole-v1", seed=0, episodes_per_candidate=2, **kwargs)
    before = rlopt.evaluate(model, "CartPole-v1", 20).mean
    model.learn(10**6, total_episodes=1000)
    assert rlopt.evaluate(model, "CartPole-v1", 20).mean > max(300, before)
