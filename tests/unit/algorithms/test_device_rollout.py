"""Collection that stays on the device, against the loops over a VecEnv on the same worlds and random numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor
from tensor_worlds import TensorWorlds

import rlopt
from rlopt.checkpoint.model_state import capture_state
from rlopt.envs.backends import warp_vec
from rlopt.errors import NonFiniteOutcomeError


@pytest.fixture(autouse=True)
def _worlds_are_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warp_vec, "WarpVecEnv", TensorWorlds)


def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops over a VecEnv from now on."""
    for module in ("rlopt.agents.ppo.on_policy", "rlopt.agents.sac.algorithm"):
        monkeypatch.setattr(f"{module}.device_env", lambda model, env: None)


def rollout(kind: Any, **options: Any) -> Any:
    """A model with the rollout of its last update."""
    model = kind("MlpPolicy", VecMonitor(TensorWorlds(5)), n_steps=7, batch_size=35, seed=3, device="cpu", **options)
    return model.learn(70)


@pytest.mark.parametrize("kind", [rlopt.PPO, rlopt.MDPO])
def test_a_rollout_is_that_of_the_loop(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over time limits, whose values are bootstrapped, and an update between the two rollouts."""
    device = rollout(kind)
    on_host(monkeypatch)
    host = rollout(kind)
    assert isinstance(device.rollout_buffer.rewards, torch.Tensor)
    assert isinstance(host.rollout_buffer.rewards, np.ndarray)
    for name in (
        "observations",
        "actions",
        "rewards",
        "episode_starts",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        ours, theirs = (torch.as_tensor(getattr(model.rollout_buffer, name)) for model in (device, host))
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-5)
    for (name, ours), theirs in zip(device.policy.named_parameters(), host.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert [(entry["r"], entry["l"]) for entry in device.ep_info_buffer] == [
        (pytest.approx(entry["r"]), entry["l"]) for entry in host.ep_info_buffer
    ]
    assert len(device.ep_info_buffer) > 5


def transitions(n_steps: int = 1, **options: Any) -> Any:
    settings = {"learning_starts": 0, "buffer_size": 400, "batch_size": 8, "gradient_steps": 2, "n_steps": n_steps}
    env = VecMonitor(TensorWorlds(5))
    return rlopt.SAC("MlpPolicy", env, train_freq=3, seed=3, device="cpu", **settings | options).learn(60)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_transitions_are_those_of_the_loop(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    device = transitions(n_steps)
    on_host(monkeypatch)
    host = transitions(n_steps)
    assert device._episodes is not None and host._episodes is None
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        ours, theirs = (getattr(model.replay_buffer, name) for model in (device, host))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    assert device.replay_buffer.pos == host.replay_buffer.pos == 12
    assert device.replay_buffer.timeouts.any() and device._n_updates == host._n_updates == 8
    for ours, theirs in zip(device.actor.parameters(), host.actor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_random_actions_come_first() -> None:
    taken = transitions(learning_starts=60).replay_buffer.actions[:12].reshape(-1)
    assert -1 <= taken.min() < -0.8 and 0.8 < taken.max() <= 1 and abs(taken.mean()) < 0.3


@pytest.mark.parametrize("make", [lambda: rollout(rlopt.MDPO), transitions])
def test_checkpoints_have_arrays(make: Any) -> None:
    training = capture_state(make(), copy=True)["training"]
    assert isinstance(training["last_obs"], np.ndarray) and training["last_obs"].shape == (5, 3)


def test_values_that_are_not_finite_are_found() -> None:
    for kind in (rlopt.PPO, rlopt.SAC):
        model = kind("MlpPolicy", TensorWorlds(5, broken_at=9), n_steps=4, seed=3, device="cpu", batch_size=20)
        with pytest.raises(NonFiniteOutcomeError, match="observation or reward is NaN or infinite at step"):
            model.learn(200)


def test_a_callback_can_stop() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            assert len(self.locals["infos"]) == 5 and isinstance(self.locals["rewards"], torch.Tensor)
            return self.n_calls < 4

    for kind in (rlopt.PPO, rlopt.SAC):
        model = kind(
            "MlpPolicy", TensorWorlds(5), n_steps=50 if kind is rlopt.PPO else 1, seed=3, device="cpu", batch_size=50
        )
        model.learn(1000, Stop())
        assert model.num_timesteps == 20
