"""What makes on-policy MDPO need no tuning: a step size that follows a target, and no unit of reward anywhere."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from reach import assert_same
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

import rlopt
from rlopt.agents.mdpo.losses import adapted_step_size, value_scale
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.agents.mdpo.phases import scaled_down
from rlopt.checkpoint.model_state import save_checkpoint


class Walk(gymnasium.Env):
    """A point that an action pushes; the reward, times ``scale``, is how near to 0 it is. Episodes of 20 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, scale: float, action_space: spaces.Space) -> None:
        self.scale, self.action_space = scale, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=1).astype(np.float32), 0
        return self.x, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = action if isinstance(self.action_space, spaces.Box) else np.float32([action - 1])
        self.x = np.clip(self.x + 0.3 * push, -5, 5).astype(np.float32)
        self.t += 1
        return self.x, -self.scale * float(np.abs(self.x[0])), False, self.t >= 20, {}


ARMS, BUTTONS = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(3)


def model(scale: float = 1.0, actions: spaces.Space = ARMS, n_envs: int = 1, **options: Any) -> MDPO:
    env = DummyVecEnv([lambda: Walk(scale, actions)] * n_envs)
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "value_batch_size": 32, "n_epochs": 4, "seed": 0}
    return MDPO("MlpPolicy", env, device="cpu", **{**settings, **options})


@pytest.mark.parametrize("way", ["eager", "stepped"])
@pytest.mark.parametrize("actions", [ARMS, BUTTONS])
@pytest.mark.parametrize("scale", [2.0**-7, 2.0**7])
def test_rewards_of_any_scale_give_the_same_policy(scale: float, actions: spaces.Space, way: str) -> None:
    """Four updates on rewards times a power of two: the policy is the same, and V that power as large."""

    def learned(scale: float) -> MDPO:
        algorithm = model(scale, actions)
        if way == "stepped":
            algorithm._update_mode = lambda: "eager"  # type: ignore[method-assign]
        return algorithm.learn(256)

    plain, scaled = learned(1.0), learned(scale)
    head = ("policy_net", "action_net", "log_std")
    for name, value in plain.policy.state_dict().items():
        if any(part in name for part in head):
            torch.testing.assert_close(scaled.policy.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    shown = torch.linspace(-2, 2, 9)[:, None]
    with torch.no_grad():
        values = plain.policy.predict_values(shown)
        torch.testing.assert_close(scaled.policy.predict_values(shown), scale * values, rtol=1e-3, atol=1e-4 * scale)
    assert values.abs().max() > 0.1
    assert scaled.adapted_step_size == pytest.approx(plain.adapted_step_size, rel=1e-3)


def test_without_normalised_values_the_scale_matters() -> None:
    """The control of the test above."""
    plain, scaled = (model(scale, normalize_value=False).learn(256) for scale in (1.0, 2.0**7))
    assert not torch.allclose(plain.policy.action_net.weight, scaled.policy.action_net.weight, atol=1e-4)


def test_the_step_size_doubles_or_halves_towards_the_target() -> None:
    assert adapted_step_size(1.0, divergence=0.01, target=0.02) == 2.0
    assert adapted_step_size(1.0, divergence=0.016, target=0.02) == pytest.approx(1.25)
    assert adapted_step_size(1.0, divergence=0.03, target=0.02) == pytest.approx(2 / 3)
    assert adapted_step_size(1.0, divergence=9.0, target=0.02) == 0.5
    assert adapted_step_size(1.0, divergence=0.0, target=0.02) == 2.0
    assert adapted_step_size(1e4, divergence=0.0, target=0.02) == 1e4
    assert adapted_step_size(1e-4, divergence=1.0, target=0.02) == 1e-4


class Seen(BaseCallback):
    """Step size and divergence of each update."""

    def _on_training_start(self) -> None:
        self.found: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        seen = self.logger.name_to_value
        if "train/step_size" in seen:
            self.found.append((seen["train/step_size"], seen["train/final_divergence"]))


def test_updates_come_to_the_target_from_either_side() -> None:
    """Of the last updates the median divergence is within a factor of two, whatever the first step size was."""
    for first in (100.0, 0.01):
        seen, target = Seen(), 0.01
        model(step_size=first, target_kl=target, n_steps=128, learning_rate=1e-3).learn(128 * 24, callback=seen)
        sizes, divergences = zip(*seen.found, strict=True)
        assert sizes[0] == first
        for (size, divergence), following in zip(seen.found, sizes[1:], strict=False):
            assert following == pytest.approx(adapted_step_size(size, divergence=divergence, target=target), rel=1e-5)
        assert target / 2 < np.median(divergences[-16:]) < target * 2


def test_without_a_target_the_schedule_of_the_paper_holds() -> None:
    assert model(target_kl=None, step_size_schedule="constant", step_size=0.3).learn(64).current_step_size() == 0.3


def test_the_scale_of_returns_is_the_nearest_power_of_two() -> None:
    for size, wanted in {1.0: 1.0, 100.0: 128.0, 0.01: 2.0**-7, 90.0: 64.0, 0.0: 1.0, math.inf: 1.0}.items():
        assert value_scale(torch.tensor([size, -size])) == wanted


def test_values_stay_in_units_of_reward_and_their_layer_as_it_was() -> None:
    algorithm = model(100.0)
    assert algorithm.policy.predict_values(torch.ones(3, 1)).abs().max() == 0
    algorithm.learn(64)
    layer = algorithm.policy.value_net
    before = [parameter.clone() for parameter in layer.parameters()]
    with scaled_down(layer, 128.0):
        assert torch.equal(layer.weight, before[0] / 128)
    assert all(map(torch.equal, layer.parameters(), before))
    buffer = algorithm.learn(64 * 12).rollout_buffer
    assert buffer.returns.mean() < -50 and abs(buffer.values.mean() / buffer.returns.mean() - 1) < 0.5


def test_a_layer_that_cannot_be_scaled_is_left_and_said(capsys: Any) -> None:
    frozen = model(100.0)
    frozen.policy.value_net.requires_grad_(False)
    frozen.learn(192)
    assert not frozen.policy.value_net.weight.any()
    assert capsys.readouterr().out.count("normalize_value has no effect") == 1

    class Deep(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.value_net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(8, 1))

    algorithm = MDPO(Deep, DummyVecEnv([lambda: Walk(1.0, ARMS)]), n_steps=32, device="cpu", seed=0)
    assert algorithm.learn(64)._value_scale == 1.0


def test_the_step_size_is_part_of_what_is_saved(tmp_path: Path) -> None:
    algorithm = model(target_kl=1e-3).learn(192)
    assert algorithm.adapted_step_size not in (1.0, 8.0)
    algorithm.save(tmp_path / "model.zip")
    path = save_checkpoint(algorithm, tmp_path / "checkpoint")
    for loaded in (MDPO.load(tmp_path / "model.zip", device="cpu"), rlopt.load(path, device="cpu")):
        assert loaded.adapted_step_size == algorithm.adapted_step_size


def test_a_batch_of_more_than_the_rollout_is_the_whole_rollout() -> None:
    """The default is 64 rows: fewer steps need no other setting."""
    assert_same(model(n_steps=16, batch_size=64).learn(64), model(n_steps=16, batch_size=None).learn(64), 0.0)


@pytest.mark.parametrize("kind", ["zip", "checkpoint"])
def test_what_version_1_has_saved_keeps_the_schedule(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = model(target_kl=None, normalize_value=False).learn(64)
    for name in ("target_kl", "normalize_value"):
        del former.constructor_settings[name]
    del former.target_kl, former.normalize_value, former.adapted_step_size
    monkeypatch.setattr(MDPO, "state_attributes", ("_n_rollouts",))
    if kind == "zip":
        former.save(tmp_path / "former.zip")
    else:
        save_checkpoint(former, tmp_path)
    monkeypatch.undo()
    loaded: Any = MDPO.load(tmp_path / "former.zip") if kind == "zip" else rlopt.load(tmp_path, device="cpu")
    assert loaded.target_kl is None and loaded.normalize_value is False and loaded.adapted_step_size == 1.0


def test_what_ppo_has_saved_begins_with_a_target(tmp_path: Path) -> None:
    """PPO's target_kl ends updates early; without one it is None."""
    env = DummyVecEnv([lambda: Walk(1.0, ARMS)])
    stable_baselines3.PPO("MlpPolicy", env, n_steps=64, device="cpu").learn(64).save(tmp_path / "ppo.zip")
    loaded = MDPO.load(tmp_path / "ppo.zip", device="cpu")
    assert loaded.target_kl == 0.02 and loaded.n_steps == 64
