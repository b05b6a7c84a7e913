"""What lies between two calls of ``learn``: where episodes are cut, and the step at which a callback stopped."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from counting import Numbers
from gymnasium import spaces
from reach import Reach, ReachGoal
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlopt import MDPO, SAC, OffPolicyMDPO

TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu", "seed": 0}


class StopAfter(BaseCallback):
    """Stops training at step ``count``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def _on_step(self) -> bool:
        return self.n_calls < self.count


def off_policy(cls: type[SAC], env: Any, **options: Any) -> Any:
    return cls("MlpPolicy", env, learning_starts=100, buffer_size=20, **{**TINY, **options})


def rows(model: Any, count: int) -> tuple[list[float], ...]:
    """Observations, rewards, next observations and discounts of the first rows, as the learner reads them."""
    batch = model.replay_buffer.gather(torch.arange(count))
    discounts = (1 - batch.dones) * (model.gamma if batch.discounts is None else batch.discounts)
    parts = (batch.observations, batch.rewards, batch.next_observations, discounts)
    return tuple(part.flatten().tolist() for part in parts)


@pytest.mark.parametrize("cls", [SAC, OffPolicyMDPO])
def test_no_return_of_n_steps_bridges_two_calls_of_learn(cls: type[SAC]) -> None:
    model = off_policy(cls, Numbers(), n_steps=3, gamma=0.5)
    model.learn(2).learn(2)
    # The first learn saw rewards 1, 2 and was cut at observation 2; the second begins at 10 and gets 11, 12.
    observations, rewards, next_observations, discounts = rows(model, 4)
    assert observations == [0, 1, 10, 11]
    assert rewards == [1 + 2 / 2, 2, 11 + 12 / 2, 12]
    assert next_observations == [2, 2, 12, 12]
    assert discounts == [0.25, 0.5, 0.25, 0.5]


def test_returns_of_n_steps_go_on_where_learn_goes_on() -> None:
    model = off_policy(SAC, Numbers(), n_steps=3, gamma=0.5)
    model.learn(2).learn(2, reset_num_timesteps=False)
    assert rows(model, 4)[1:] == ([2.75, 4.5, 5, 4], [3, 4, 4, 4], [0.125, 0.125, 0.25, 0.5])
    model.set_env(Numbers())  # that resets: the next learn begins an episode whatever it is told
    model.learn(1, reset_num_timesteps=False)
    assert rows(model, 5)[1:3] == ([2.75, 4.5, 5, 4, 1], [3, 4, 4, 4, 1])


def test_a_true_end_stays_one_when_learn_begins_again() -> None:
    model = off_policy(SAC, Numbers(length=2), n_steps=3, gamma=0.5)
    model.learn(2).learn(1)
    assert rows(model, 2)[1:] == ([2, 2], [2, 2], [0, 0])


class Endless(ReachGoal):
    """ReachGoal without a goal at which an episode ends."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, cut, info = super().step(action)
        return observation, reward, False, cut, info


@pytest.mark.parametrize("kind", ["her", "device_her"])
def test_no_goal_is_taken_from_behind_a_new_learn(kind: str) -> None:
    model = SAC("MultiInputPolicy", Endless(), replay_buffer_class=kind, learning_starts=100, **TINY)
    model.learn(3).learn(3)
    buffer: Any = model.replay_buffer
    assert buffer.ep_start[:3, 0].tolist() == [0, 0, 0] and buffer.ep_length[:3, 0].tolist() == [3, 3, 3]
    assert buffer.ep_start[3:6, 0].tolist() == [3, 3, 3] and buffer.ep_length[3:6, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("cls", [SAC, OffPolicyMDPO])
@pytest.mark.parametrize("train_freq", [1, 4])
def test_the_transition_at_which_a_callback_stops_is_stored(cls: type[SAC], train_freq: int) -> None:
    model = off_policy(cls, DummyVecEnv([lambda: Numbers(length=3)]), train_freq=train_freq)
    model.learn(10, callback=StopAfter(3))
    assert model.num_timesteps == model.replay_buffer.pos == 3 and model._episode_num == 1
    model.learn(2, reset_num_timesteps=False)
    observations, rewards, next_observations, discounts = rows(model, 5)
    assert (observations, rewards) == ([0, 1, 2, 10, 11], [1, 2, 3, 11, 12])
    assert next_observations == [1, 2, 3, 11, 12]
    assert [discount > 0 for discount in discounts] == [True, True, False, True, True]


def test_the_last_transition_is_stored_as_the_environment_gave_it() -> None:
    env = VecNormalize(DummyVecEnv([Numbers]))
    model = off_policy(SAC, env)
    model.learn(10, callback=StopAfter(2)).learn(1, reset_num_timesteps=False)
    assert rows(model, 3)[:3] == ([0, 1, 2], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("shared", [False, True])
def test_a_rollout_goes_on_behind_the_step_at_which_a_callback_stopped(shared: bool) -> None:
    kwargs = {"policy_kwargs": {"net_arch": [4]}}
    if shared:  # Stable-Baselines3's own loop
        from stable_baselines3.common.buffers import RolloutBuffer

        class Own(RolloutBuffer):
            pass

        kwargs["rollout_buffer_class"] = Own  # type: ignore[assignment]
    model = MDPO("MlpPolicy", Numbers(length=3), n_steps=2, batch_size=None, **{**TINY, **kwargs})
    model.learn(10, callback=StopAfter(3))
    assert len(model.ep_info_buffer or ()) == 1
    model.learn(2, reset_num_timesteps=False)
    assert model.rollout_buffer.observations.flatten().tolist() == [10, 11]
    assert model.rollout_buffer.episode_starts.flatten().tolist() == [1, 0]


def test_a_model_with_hindsight_is_loaded_without_an_environment(tmp_path: Path) -> None:
    for kind in ("her", "device_her"):
        model = SAC("MultiInputPolicy", ReachGoal(), replay_buffer_class=kind, learning_starts=16, batch_size=4, **TINY)
        model.learn(16)
        model.save(tmp_path / "model.zip")
        loaded = SAC.load(tmp_path / "model.zip", device="cpu")
        seen = ReachGoal().reset(seed=1)[0]
        np.testing.assert_array_equal(*(one.predict(seen, deterministic=True)[0] for one in (model, loaded)))
        loaded.set_env(ReachGoal())
        loaded.learn(20)
        assert loaded._n_updates > model._n_updates


def test_a_model_with_returns_of_n_steps_is_loaded_without_a_false_warning(tmp_path: Path) -> None:
    off_policy(SAC, Numbers(), n_steps=3).save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = SAC.load(tmp_path / "model.zip", device="cpu")
    assert loaded.replay_buffer.n_steps == 3  # type: ignore[union-attr]


def test_networks_are_given_in_the_former_way_too() -> None:
    with pytest.warns(UserWarning, match="shared layers"):
        model = MDPO("MlpPolicy", Numbers(), device="cpu", policy_kwargs={"net_arch": [{"pi": [4], "vf": [8]}]})
    extractor = model.policy.mlp_extractor
    assert (extractor.latent_dim_pi, extractor.latent_dim_vf) == (4, 8)


class Grid(Reach):
    """Reach with actions in two rows."""

    action_space = spaces.Box(-1, 1, (2, 2), np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return super().step(action.sum(axis=0))


@pytest.mark.parametrize("use_sde", [False, True])
def test_actions_of_several_axes_are_learned_as_in_stable_baselines3(use_sde: bool) -> None:
    settings = {**TINY, "learning_starts": 8, "batch_size": 4, "use_sde": use_sde}
    theirs, ours = (cls("MlpPolicy", Grid(), **settings).learn(16) for cls in (stable_baselines3.SAC, SAC))
    for one, other in zip(theirs.policy.parameters(), ours.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value_network", [False, True])
def test_off_policy_mdpo_learns_actions_of_several_axes(value_network: bool) -> None:
    settings = {**TINY, "learning_starts": 8, "batch_size": 4, "value_network": value_network}
    model = OffPolicyMDPO("MlpPolicy", Grid(), **settings).learn(12)
    model._mode = lambda parts: "eager"  # type: ignore[method-assign]
    model.learn(12, reset_num_timesteps=False)
    assert model.update is not None and model.predict(np.zeros(2, np.float32))[0].shape == (2, 2)
