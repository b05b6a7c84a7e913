"""MDPO on small environments: spaces, phases, schedules, errors, Stable-Baselines3's surface."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from rlopt.agents.mdpo.heads import factors
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.errors import ConfigError, NonFiniteError, SpaceError


class Random(gymnasium.Env):
    """Random observations and rewards; truncates after ``limit`` steps; can be told to emit a broken value."""

    def __init__(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        limit: int = 20,
        broken: dict[int, str] | None = None,
        reward: float | None = None,
    ) -> None:
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = action_space or spaces.Box(-1, 1, (2,), np.float32)
        self.limit, self.broken, self.reward, self.total, self.t = limit, broken or {}, reward, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        self.total += 1
        observation = self.observation_space.sample()
        reward = float(self.np_random.normal()) if self.reward is None else self.reward
        what = self.broken.get(self.total)
        if what == "observation":
            observation[0] = np.nan
        if what == "reward":
            reward = float("inf")
        return observation, reward, False, self.t >= self.limit, {}


def model(env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> MDPO:
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "seed": 0, "device": "cpu"}
    return MDPO(policy, Random() if env is None else env, **{**settings, **kwargs})


def weights(algorithm: MDPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.policy.state_dict().items()}


@pytest.mark.parametrize("tsallis_q", [1.0, 1.5])
@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Box(-2, 3, (2,), np.float32),
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
    ],
)
def test_every_action_space_trains(action_space: spaces.Space, batch_size: int | None, tsallis_q: float) -> None:
    algorithm = model(Random(action_space=action_space), batch_size=batch_size, tsallis_q=tsallis_q, n_epochs=2)
    before = weights(algorithm)
    algorithm.learn(64)
    assert algorithm.num_timesteps == 64
    assert any(not torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    action, _ = algorithm.predict(algorithm.observation_space.sample())
    assert action_space.contains(action)


def test_dict_observations_and_several_environments_train() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    env = DummyVecEnv([lambda: Random(observation_space=space)] * 2)
    algorithm = model(env, policy="MultiInputPolicy", batch_size=16).learn(128)
    assert algorithm.num_timesteps == 128


@pytest.mark.parametrize("squash", [False, True])
def test_state_dependent_exploration_trains(squash: bool) -> None:
    algorithm = model(use_sde=True, sde_sample_freq=4, policy_kwargs={"squash_output": squash}).learn(64)
    assert algorithm.num_timesteps == 64
    assert np.isfinite(algorithm.logger.name_to_value["train/divergence"])


def test_foreign_spaces_and_settings_are_refused() -> None:
    with pytest.raises(SpaceError, match="MDPO cannot use the action space"):
        model(Random(action_space=spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))))
    for name, value in [
        ("step_size", 0.0),
        ("tsallis_q", 0.5),
        ("n_epochs", 0),
        ("clip_range_vf", -0.1),
        ("batch_size", 33),
        ("ent_coef", -1.0),
        ("step_size_schedule", "cosine"),
    ]:
        with pytest.raises(ConfigError, match=name):
            model(**{name: value})
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        model(policy_kwargs={"activation_fn": "rellu"})

    def _on_step(self) -> bool:
        return True


def test_first_step_is_the_plain_policy_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """pi_k is the policy that collected the data, from the first update on (the released code starts from another)."""
    seen: list[tuple[float, float]] = []
    original = MDPO.policy_loss

    def spy(*args: Any, **kwargs: Any) -> Any:
        loss, info = original(*args, **kwargs)
        seen.append((info["divergence"].item(), info["ratio_std"].item()))
        return loss, info

    monkeypatch.setattr(MDPO, "policy_loss", staticmethod(spy))
    model(n_epochs=4, learning_rate=1e-2).learn(64)
    assert len(seen) == 8, "m full-batch gradient steps a rollout"
    for first in (seen[0], seen[4]):
        assert first == pytest.approx((0.0, 0.0), abs=1e-6)
    for later in (*seen[1:4], *seen[5:]):
        assert later[0] > 1e-5 and later[1] > 1e-4


def test_phases_touch_only_their_own_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = model(learning_rate=1e-2)
    monkeypatch.setattr(algorithm, "_value_phase", lambda *args: None)
    before = weights(algorithm)
    algorithm.learn(32)
    moved = {name for name, value in weights(algorithm).items() if not torch.equal(value, before[name])}
    assert moved and not any("value" in name for name in moved)

    algorithm = model(learning_rate=1e-2)
    monkeypatch.setattr(algorithm, "_policy_phase", lambda *args: None)
    before = weights(algorithm)
    algorithm.learn(32)
    moved = {name for name, value in weights(algorithm).items() if not torch.equal(value, before[name])}
    assert moved and all("value" in name for name in moved)


def test_shared_features_extractor_is_trained_by_both_phases() -> None:
    space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    algorithm = model(Random(observation_space=space), policy="CnnPolicy", n_steps=16, n_epochs=1)
    shared = {id(p) for p in algorithm.policy.features_extractor.parameters()}
    assert shared <= {id(p) for p in algorithm.policy_parameters}
    assert shared <= {id(p) for p in algorithm.value_parameters}
    everything = {id(p) for p in algorithm.policy.parameters()}
    assert everything == {id(p) for p in algorithm.policy_parameters} | {id(p) for p in algorithm.value_parameters}
    algorithm.learn(16)


def test_step_size_and_learning_rate_are_annealed() -> None:
    """K = 4 updates: t_k = 1, 3/4, 1/2, 1/4. The released code computes a learning-rate schedule and never uses it."""

    class Record(BaseCallback):
        seen: list[tuple[float, float]]

        def _on_training_start(self) -> None:
            self.seen = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            values = self.logger.name_to_value
            if "train/step_size" in values:
                self.seen.append((values["train/step_size"], values["train/learning_rate"]))

        def _on_training_end(self) -> None:
            self._on_rollout_start()

    record = Record()
    model(learning_rate=LinearSchedule(1e-3, 0.0, 1.0)).learn(128, callback=record)
    assert [size for size, _ in record.seen] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert [rate for _, rate in record.seen] == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0])
    constant = model(step_size=0.3, step_size_schedule="constant").learn(64)
    assert constant.logger.name_to_value["train/step_size"] == 0.3


def test_time_limits_are_bootstrapped() -> None:
    """Reward 1 for ever, episodes cut after 20 steps: the value is 1 / (1 - 0.9) = 10."""
    algorithm = model(
        Random(observation_space=spaces.Box(0, 0, (1,), np.float32), reward=1.0),
        gamma=0.9,
        n_steps=200,
        n_value_epochs=10,
        value_batch_size=50,
        value_learning_rate=3e-3,
    ).learn(8000)
    value = algorithm.policy.predict_values(torch.zeros(1, 1)).item()
    assert value == pytest.approx(10.0, abs=0.5)


@pytest.mark.parametrize(("what", "name"), [("observation", "observation"), ("reward", "reward")])
def test_stops_at_the_first_broken_value_and_names_the_step(what: str, name: str) -> None:
    algorithm = model(Random(broken={47: what}))
    with pytest.raises(NonFiniteError, match=rf"{name} is NaN or infinite at step 47\b"):
        algorithm.learn(96)
    assert all(torch.isfinite(value).all() for value in weights(algorithm).values())


def test_diverging_loss_is_named() -> None:
    algorithm = model(Random(reward=1e30), normalize_advantage=False)
    with pytest.raises(NonFiniteError, match="loss is NaN or infinite at step 32"):
        algorithm.learn(64)


def test_same_seed_same_run_and_sb3_zip_round_trip(tmp_path: Path) -> None:
    first, second = model(batch_size=16).learn(64), model(batch_size=16).learn(64)
    for name, value in weights(first).items():
        assert torch.equal(value, second.policy.state_dict()[name])
    first.save(tmp_path / "model.zip")
    loaded = MDPO.load(tmp_path / "model.zip", env=Random())
    observation = np.ones(3, np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], first.predict(observation, deterministic=True)[0]
    )
    moments = [state["exp_avg"] for state in loaded.value_optimizer.state_dict()["state"].values()]
    expected = [state["exp_avg"] for state in first.value_optimizer.state_dict()["state"].values()]
    assert moments and all(torch.equal(a, b) for a, b in zip(moments, expected, strict=True))
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96


def test_one_update_follows_the_gradient_of_the_written_objective() -> None:
    """m = 1, plain SGD: the step is the policy gradient of -E[r A], computed here with torch's own distributions."""
    algorithm = model(
        n_epochs=1,
        learning_rate=0.1,
        max_grad_norm=1e9,
        policy_kwargs={"optimizer_class": "sgd", "optimizer_kwargs": {}},
    )
    captured: dict[str, Any] = {}
    original = algorithm._policy_phase

    def spy(observations: Any, actions: Any, advantages: Any, step_size: float, history: Any) -> None:
        distribution = algorithm.policy.get_distribution(observations).distribution
        standard = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_prob = distribution.log_prob(actions).sum(-1)
        loss = -(torch.exp(log_prob - log_prob.detach()) * standard).mean()
        captured["gradient"] = torch.autograd.grad(loss, [algorithm.policy.log_std])[0]
        captured["before"] = algorithm.policy.log_std.detach().clone()
        original(observations, actions, advantages, step_size, history)

    algorithm._policy_phase = spy  # type: ignore[method-assign]
    algorithm.learn(32)
    expected = captured["before"] - 0.1 * captured["gradient"]
    torch.testing.assert_close(algorithm.policy.log_std.detach(), expected)


def test_factors_of_a_squashed_policy_are_those_before_squashing() -> None:
    algorithm = model(use_sde=True, policy_kwargs={"squash_output": True})
    distribution = algorithm.policy.get_distribution(torch.zeros(5, 3))
    parameters = factors(distribution)
    assert parameters.mean.shape == (5, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(parameters.mean, distribution.distribution.mean)  # type: ignore[union-attr]
