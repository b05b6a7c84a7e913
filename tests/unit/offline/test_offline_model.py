"""The Stable-Baselines3 surface of the offline learners: data, callbacks, saving, fine-tuning, what is refused."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from offline_data import corridor, pendulum, recorded
from reach import Reach, ReachGoal, vec_env
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.agents.offline.config import TD3BCConfig
from rlopt.agents.offline.data import ReplayRows, return_range_scale
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import learn_from, save_checkpoint
from rlopt.data import Dataset, Metadata
from rlopt.data.columns import scaled_actions
from rlopt.data.environment import spaces_of
from rlopt.data.filtering import filter_episodes
from rlopt.errors import ConfigError, DataError, NonFiniteError, SpaceError

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 16, "device": "cpu", "seed": 0}
FINE_TUNED = ["TD3BC", "AWAC", "IQL", "CQL", "ReBRAC"]


def make(name: str, env: Any, **options: Any) -> OfflineAlgorithm:
    model: OfflineAlgorithm = getattr(rlopt, name)("MlpPolicy", env, **{**SMALL, **options})
    return model


def reach_data(steps: int = 240, env: type[Reach] = Reach) -> Dataset:
    space = Reach.action_space
    return recorded(env(), "Reach", steps, lambda _, rng: rng.uniform(space.low, space.high).astype(np.float32))


def hand_made() -> Dataset:
    """Three episodes of lengths 2, 1 and 3 with returns 3, 10 and -3; the second ends truly."""
    rewards = np.array([1, 2, 10, -1, -1, -1], np.float32)
    observations = np.arange(12, dtype=np.float32).reshape(6, 2)
    return Dataset(
        observations=observations,
        actions=np.array([[-2, -1], [1, 3], [-0.5, 1], [0, 0], [0.5, 0], [1, 1]], np.float32),
        rewards=rewards,
        next_observations=observations + 100,
        discounts=np.array([1, 1, 0, 1, 1, 1], np.float32),
        episode_ends=np.array([0, 1, 1, 0, 0, 1], bool),
        metadata=Metadata(env="Reach"),
    )


def test_actions_are_scaled_by_the_bounds() -> None:
    # Bounds -2..1 and -1..3: the middle is (-0.5, 1).
    scaled = scaled_actions(hand_made().actions[:3], Reach.action_space)
    np.testing.assert_allclose(scaled, [[-1, -1], [1, 1], [0, 0]], atol=1e-6)


def test_the_best_episodes() -> None:
    best = filter_episodes(hand_made(), best=1 / 3)
    assert best.rewards.tolist() == [10.0]
    assert filter_episodes(hand_made(), best=2 / 3).rewards.tolist() == [1.0, 2.0, 10.0]
    assert len(filter_episodes(hand_made(), best=0.01)) == 1
    assert return_range_scale(hand_made()) == pytest.approx(1000 / 13)


def test_batches_hold_the_data() -> None:
    model = make("ReBRAC", vec_env(), dataset=hand_made())
    assert model._data is not None
    batch = model._data.gather(torch.arange(6), torch.zeros(()))
    np.testing.assert_array_equal(batch.observations, hand_made().observations)
    np.testing.assert_array_equal(batch.next_observations, hand_made().next_observations)
    assert batch.continues.flatten().tolist() == [1, 1, 0, 1, 1, 1]
    assert batch.next_known.flatten().tolist() == [1, 0, 0, 1, 1, 0]
    known = batch.next_known.flatten() > 0
    np.testing.assert_array_equal(batch.next_actions[known], batch.actions[[1, 4, 5]])


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_replay_buffer_begins_with_the_data(n_envs: int) -> None:
    model = make("ReBRAC", vec_env(), dataset=hand_made(), buffer_size=10)
    model.set_env(vec_env(n_envs))
    buffer: Any = model.replay_buffer
    assert buffer.pos == 6 // n_envs and not buffer.full
    rows = torch.arange(6)
    batch = ReplayRows(buffer, model.policy).gather(rows, torch.tensor(buffer.pos - 1))
    # Row 2 p + e is transition 3 e + p of the data with two environments.
    order = [0, 3, 1, 4, 2, 5] if n_envs == 2 else list(range(6))
    assert model._data is not None
    wanted = model._data.gather(torch.tensor(order), torch.zeros(()))
    for name in ("observations", "actions", "rewards", "next_observations", "continues"):
        torch.testing.assert_close(getattr(batch, name), getattr(wanted, name))
    torch.testing.assert_close(batch.next_known, wanted.next_known)
    known = batch.next_known.flatten() > 0
    torch.testing.assert_close(batch.next_actions[known], wanted.next_actions[known])


def test_the_newest_transition_has_no_next_action() -> None:
    model = make("ReBRAC", vec_env(), dataset=reach_data(60), buffer_size=100)
    env = vec_env()
    env.seed(3)
    model.set_env(env)
    model.learn(4, reset_num_timesteps=False)
    buffer: Any = model.replay_buffer
    assert not buffer.dones[60:64].any()
    rows = ReplayRows(buffer, model.policy)
    assert rows.newest() == 63
    batch = rows.gather(torch.tensor([61, 63]), torch.tensor(63))
    assert batch.next_known.flatten().tolist() == [1, 0]
    np.testing.assert_array_equal(batch.next_actions[0], buffer.actions[62, 0])


def test_observations_are_normalised_by_the_data_and_the_statistics_travel(tmp_path: Path) -> None:
    model = make("TD3BC", pendulum())
    data = pendulum().observations
    assert isinstance(data, np.ndarray)
    torch.testing.assert_close(model.policy.observation_mean, torch.from_numpy(data.mean(0)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.policy.observation_std, torch.from_numpy(data.std(0) + 1e-3), rtol=1e-4, atol=1e-5)
    plain = make("TD3BC", pendulum(), normalize_observations=False)
    assert not plain.policy.observation_mean.any()
    model.learn(20)
    model.save(tmp_path / "model.zip")
    loaded = rlopt.TD3BC.load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(loaded.predict(data[:5])[0], model.predict(data[:5])[0])
    other = pendulum(seed=5)
    loaded.set_dataset(other)  # a trained model keeps its statistics
    torch.testing.assert_close(loaded.policy.observation_mean, model.policy.observation_mean)


def test_predictions_are_actions_of_the_space() -> None:
    model = make("TD3BC", vec_env(), dataset=reach_data())
    actions, state = model.predict(np.random.default_rng(0).normal(size=(50, 2), scale=5).astype(np.float32))
    assert state is None and all(Reach.action_space.contains(action) for action in actions)
    with torch.no_grad():
        scaled = model.policy.actor(model.policy.normalized(torch.zeros(1, 2))).numpy()[0]
    low, high = Reach.action_space.low, Reach.action_space.high
    expected = low + (scaled + 1) / 2 * (high - low)
    np.testing.assert_allclose(model.predict(np.zeros(2, np.float32))[0], expected, rtol=1e-5)


class Counter(BaseCallback):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at, self.rollouts = stop_at, 0

    def _on_rollout_start(self) -> None:
        self.rollouts += 1

    def _on_step(self) -> bool:
        return self.num_timesteps != self.stop_at


def test_callbacks_see_every_gradient_step_and_can_stop() -> None:
    model, counter = make("TD3BC", pendulum()), Counter(stop_at=130)
    model.learn(1000, callback=counter)
    assert (model.num_timesteps, model._n_updates, counter.n_calls, counter.rollouts) == (130, 130, 130, 2)


def test_stable_baselines3_callbacks_work_and_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    def trained(*callbacks: BaseCallback) -> OfflineAlgorithm:
        return make("TD3BC", pendulum()).learn(60, callback=list(callbacks))

    evaluation = EvalCallback(
        VecMonitor(rlopt.make_env("Pendulum-v1")), eval_freq=30, n_eval_episodes=1, verbose=0, warn=False
    )
    checkpoints = CheckpointCallback(save_freq=30, save_path=str(tmp_path))
    first, second = trained(evaluation, checkpoints), trained()
    assert evaluation.n_calls == 60 and evaluation.last_mean_reward < 0
    assert len(list(tmp_path.glob("*.zip"))) == 2
    for ours, theirs in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_validation_losses_are_of_the_held_out_episodes_and_cost_no_randomness() -> None:
    model = make("BC", pendulum(1000), validation_fraction=0.4, normalize_observations=False)
    assert model._data is not None and model._held_out is not None
    assert (len(model._data), len(model._held_out)) == (600, 400)
    state = torch.get_rng_state()
    loss = model.validation_losses()["bc_loss"]
    assert torch.equal(torch.get_rng_state(), state)
    held_out = pendulum(1000).split(0.4, seed=0)[1]
    predicted = model.predict(held_out.observations)[0]
    assert loss == pytest.approx(float(np.mean((predicted / 2 - held_out.actions / 2) ** 2)), rel=1e-4)


@pytest.mark.parametrize("name", FINE_TUNED)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_fine_tuning_goes_on_from_the_data(name: str, n_envs: int) -> None:
    options = {"n_actions": 2} if name == "CQL" else {}
    model = make(name, vec_env(), dataset=reach_data(), buffer_size=100, **options)
    model.learn(30)
    updates = model._n_updates
    model.set_env(VecMonitor(vec_env(n_envs)))
    model.learn(60, reset_num_timesteps=False)
    buffer: Any = model.replay_buffer
    assert model.num_timesteps == 90 and buffer.pos == (240 + 60) // n_envs
    assert model._n_updates == updates + 60 // n_envs
    collected = buffer.observations[240 // n_envs : buffer.pos]
    assert np.abs(collected).sum() > 0 and np.isfinite(collected).all()
    model.set_dataset(reach_data())
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 110 and buffer.pos == (240 + 60) // n_envs


def test_discrete_and_dict_models_are_fine_tuned_too() -> None:
    model = make("AWAC", corridor())
    assert isinstance(model.action_space, spaces.Discrete)
    model.learn(20)
    model.set_env(rlopt.make_env("rlopt/Corridor-v0"))
    model.learn(30, reset_num_timesteps=False)
    assert model.replay_buffer is not None and model.replay_buffer.pos == 330
    goal = rlopt.TD3BC("MultiInputPolicy", vec_env(env=ReachGoal), dataset=reach_data(env=ReachGoal), **SMALL)
    goal.learn(20)
    assert goal.policy.observation_mean.shape == (6,)
    goal.set_env(vec_env(env=ReachGoal))
    goal.learn(30, reset_num_timesteps=False)
    assert goal.replay_buffer is not None and goal.replay_buffer.pos == 270
    observation = {key: np.ones(2, np.float32) for key in ("observation", "achieved_goal", "desired_goal")}
    assert goal.action_space.contains(goal.predict(observation)[0])


def test_fine_tuning_is_restored_bit_for_bit(tmp_path: Path) -> None:
    task = "rlopt/RandomTarget-v0"
    space = rlopt.make_env(task).action_space
    data = recorded(gymnasium.make(task), task, 100, lambda _, rng: rng.uniform(space.low, space.high))  # type: ignore[attr-defined]

    def fine_tuning() -> OfflineAlgorithm:
        model = make("TD3BC", data, buffer_size=100).learn(20)
        model.set_env(VecMonitor(rlopt.make_env(task, n_envs=2, seed=1)))
        return model

    whole, saved = fine_tuning(), []
    whole.boundary_hook = lambda model: bool(
        model.num_timesteps != 40 or saved.append(save_checkpoint(model, tmp_path)) or 1
    )
    whole.learn(40, reset_num_timesteps=False)
    torch.manual_seed(99)
    np.random.seed(99)
    again = learn_from(fine_tuning(), read_checkpoint(saved[0]).trees, 60)
    assert again.num_timesteps == whole.num_timesteps == 60
    for ours, theirs in zip(again.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(again.replay_buffer.observations, whole.replay_buffer.observations)  # type: ignore[union-attr]


def test_exploration_noise_is_added_in_fine_tuning_only() -> None:
    model = make("TD3BC", vec_env(), dataset=reach_data(), exploration_noise=0.5)
    model.set_env(vec_env())
    model._last_obs = np.zeros((1, 2), np.float32)
    drawn = np.array([model._sample_action(0, model.action_noise)[1][0] for _ in range(300)])
    mean = model.policy.scale_action(model.predict(np.zeros(2, np.float32))[0])
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.12)
    np.testing.assert_allclose(drawn.std(axis=0), 0.5, atol=0.12)
    assert make("TD3BC", vec_env(), dataset=reach_data()).action_noise is None


def test_behaviour_cloning_stays_with_the_data() -> None:
    model = make("BC", pendulum())
    model.set_env(rlopt.make_env("Pendulum-v1"))
    model.learn(20)
    assert model.replay_buffer is None and model._n_updates == 20


def test_a_broken_environment_stops_fine_tuning() -> None:
    class Broken(Reach):
        def step(self, action: np.ndarray) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    model = make("TD3BC", vec_env(), dataset=reach_data())
    model.set_env(vec_env(env=Broken))
    with pytest.raises(NonFiniteError, match="reward is NaN"):
        model.learn(10)


def test_the_path_of_a_data_set_takes_the_place_of_an_environment(tmp_path: Path) -> None:
    place = pendulum(10).save(tmp_path / "log")
    assert make("BC", str(place)).data_fingerprint == make("BC", pendulum(10)).data_fingerprint != ""


def test_spaces_come_from_the_environment_or_the_arrays() -> None:
    observation_space, action_space = spaces_of(pendulum(10))
    assert (action_space.low, action_space.high) == (-2, 2) and observation_space.shape == (3,)  # type: ignore[attr-defined]
    assert spaces_of(corridor(20))[1] == spaces.Discrete(2)
    with pytest.raises(DataError, match=r"exceed \[-1, 1\]"):
        spaces_of(reach_data(10))
    assert make("BC", vec_env(), dataset=reach_data(10)).action_space == Reach.action_space


@pytest.mark.parametrize("name", ["TD3BC", "ReBRAC", "CQL"])
def test_discrete_actions_name_the_learners_that_have_them(name: str) -> None:
    with pytest.raises(SpaceError, match="use BC, AWAC or IQL"):
        make(name, corridor())


class Image(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)


class Unbounded(Reach):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Two(Reach):
    action_space = spaces.MultiDiscrete([2, 3])  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("learner", "env", "named"),
    [("TD3BC", Image, "images"), ("BC", Unbounded, "unbounded"), ("TD3BC", Two, "MultiDiscrete")],
)
def test_other_spaces_are_refused(learner: str, env: Any, named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        make(learner, env())


def test_settings_of_ones_own_have_a_constructor_unless_it_is_written() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(TD3BCConfig):
        patience: int = 3

    class Mine(rlopt.TD3BC):
        config_class = Config

    class Written(rlopt.TD3BC):
        config_class = Config

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.patience = 7

    first, second = Mine("MlpPolicy", vec_env(), patience=5), Written("MlpPolicy", vec_env())
    assert (first.patience, first.constructor_settings["patience"], second.patience) == (5, 5, 7)
    assert first.normalize_observations and second.normalize_observations


def test_mistakes_are_one_line() -> None:
    with pytest.raises(ConfigError, match="learns from data and has none"):
        make("TD3BC", "Pendulum-v1").learn(10)
    with pytest.raises(ConfigError, match="two data sets"):
        make("TD3BC", pendulum(), dataset=pendulum())
    with pytest.raises(DataError, match="shape"):
        make("BC", vec_env(), dataset=pendulum())
    with pytest.raises(ConfigError, match="VecNormalize"):
        make("TD3BC", pendulum()).set_env(VecNormalize(rlopt.make_env("Pendulum-v1")))
    wrong: list[dict[str, Any]] = [{"alpha": -1}, {"tau": 0}, {"reward_scale": 0}, {"policy_delay": 0}]
    for option in [*wrong, {"validation_fraction": 1}, {"compile": "yes"}]:
        with pytest.raises(ConfigError, match=next(iter(option))):
            make("TD3BC", pendulum(), **option)
    with pytest.raises(ConfigError, match="closure"):
        make("TD3BC", pendulum(), policy_kwargs={"optimizer_class": "lbfgs"})
    with pytest.raises(ConfigError, match="'xf'"):
        make("TD3BC", pendulum(), policy_kwargs={"net_arch": {"xf": [8]}})
    model = make("TD3BC", vec_env(), dataset=reach_data())
    model.set_env(vec_env(2))
    with pytest.raises(ConfigError, match="2 environments"):
        model.set_env(vec_env(3))


def constant_rewards(reward: float) -> Dataset:
    """Pendulum's transitions in episodes of 200, of which nothing is near its end but the last rows."""
    data = pendulum(600)
    return dataclasses.replace(data, rewards=np.full(len(data), reward, np.float32))


def test_q_is_logged_beside_the_data_s_return_and_told_when_it_leaves_it() -> None:
    """With a reward of 1 a step and gamma .9 the data's returns are near 10, whatever the policy."""
    settings: dict[str, Any] = {"gamma": 0.9, "policy_kwargs": {"net_arch": [16]}, "batch_size": 32, "seed": 0}
    model = rlopt.TD3BC("MlpPolicy", constant_rewards(1.0), **settings)
    assert model.data_return is not None
    mean, least, largest = model.data_return
    known = 10 * (1 - 0.9 ** np.arange(22, 201))  # .9^22 < .1: what is nearer to its cut is not counted
    assert (mean, least, largest) == pytest.approx((known.mean(), known.min(), known.max()), rel=1e-5)
    scaled = rlopt.IQL("MlpPolicy", constant_rewards(1.0), reward_scale=2.0, reward_shift=-1.0, **settings)
    assert scaled.data_return == pytest.approx(model.data_return, rel=1e-5)  # 2 * 1 - 1 = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(100)
    assert model.logger.name_to_value["train/data_return"] == pytest.approx(mean)
    model._n_updates = 10_000  # as if it were trained for long, with Q still near 0
    with pytest.warns(UserWarning, match="Q has not converged after 10,100 gradient steps"):
        model.learn(100, reset_num_timesteps=False)
    for critic in model.policy.critics:
        critic[-1].bias.data.fill_(500.0)
    with pytest.warns(UserWarning, match=r"Q has left the data: it is [45]\d\d.* returns of the data are 9\.015 to 10"):
        model.learn(100, reset_num_timesteps=False)
    assert rlopt.BC("MlpPolicy", constant_rewards(1.0), seed=0, policy_kwargs={"net_arch": [8]}).data_return is None
