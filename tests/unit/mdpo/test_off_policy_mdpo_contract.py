"""Off-policy MDPO: bad input, the boundary, saving, settings and presets."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.errors import ConfigError, NonFiniteError, SpaceError, UnknownNameError
from rlopt.settings.fields import from_mapping
from rlopt.settings.presets import split_settings

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "learning_starts": 10, "device": "cpu"}
PRESETS = Path(__file__).parents[3] / "configs" / "off_policy_mdpo"


class Scripted(gym.Env):
    """Observation and reward 0, except that at step ``bad_step`` one of them, or the terminal one, is ``bad_value``."""

    action_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space: spaces.Space = spaces.Box(-10, 10, (2,), np.float32)

    def __init__(self, where: str = "", bad_step: int = 15, bad_value: float = math.nan) -> None:
        self.where, self.bad_step, self.bad_value, self.total = where, bad_step, bad_value, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.full(2, self.bad_value if self.where == "reset" else 0.0, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.total += 1
        is_bad = self.total == self.bad_step
        observation = np.zeros(2, np.float32)
        if is_bad and self.where in ("observation", "terminal"):
            observation[1] = self.bad_value
        reward = self.bad_value if is_bad and self.where == "reward" else 0.0
        return observation, reward, is_bad and self.where == "terminal", False, {}


class OddSpaces(Scripted):
    def __init__(self, action_space: spaces.Space | None = None, observation_space: spaces.Space | None = None) -> None:
        super().__init__()
        self.action_space = action_space or Scripted.action_space
        self.observation_space = observation_space or Scripted.observation_space


def make(env: gym.Env | None = None, **kwargs: Any) -> OffPolicyMDPO:
    return OffPolicyMDPO("MlpPolicy", DummyVecEnv([lambda: env or Scripted()]), seed=0, **{**SMALL, **kwargs})


def weights(model: OffPolicyMDPO) -> list[torch.Tensor]:
    return [value.clone() for value in model.policy.state_dict().values()]


# --- bad input ---


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kl_coef", -0.1),
        ("kl_coef", math.nan),
        ("kl_coef", math.inf),
        ("kl_coef", "0.1"),
        ("tsallis_q", 0.5),
        ("tsallis_q", 2.01),
        ("old_policy_period", 0),
        ("old_policy_period", 1.5),
        ("old_policy_period", True),
        ("actor_q", "mim"),
        ("kl_unit", "rewards"),
        ("compile", "onn"),
        ("critic_log_prob_bound", 0.0),
        ("log_density_floor", -math.inf),
        ("mean_penalty", -1e-3),
        ("log_std_penalty", -1e-3),
        ("ent_coef", -0.2),
        ("ent_coef", "aut"),
        ("ent_coef", "auto_0"),
        ("target_entropy", "aut"),
        ("target_entropy", None),
        ("target_entropy", math.nan),
        ("target_entropy", -math.inf),
        ("gamma", 1.01),
        ("tau", -0.1),
        ("batch_size", 0),
        ("buffer_size", 0),
        ("learning_rate", -1.0),
        ("gradient_steps", -2),
        ("n_steps", 0),
        ("train_freq", 0),
        ("train_freq", (1, "year")),
        ("target_update_interval", 0),
        ("replay_buffer_class", "hre"),
    ],
)
def test_settings_out_of_range(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting) as raised:
        make(**{setting: value})
    assert "\n" not in str(raised.value)


def test_target_entropy_names_its_cure_and_takes_what_it_names() -> None:
    with pytest.raises(ConfigError, match=r"target_entropy = .*nan.* is not a number or auto"):
        make(target_entropy="nan")
    assert make(target_entropy="auto").target_entropy == -1.0  # minus the one action dimension
    assert make(target_entropy=-0.5).target_entropy == -0.5


def test_misspelt_names_get_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="'min'"):
        make(actor_q="mim")
    with pytest.raises(UnknownNameError, match="'her'"):
        make(replay_buffer_class="hr")
    with pytest.raises(UnknownNameError, match="'relu'"):
        make(policy_kwargs={"activation_fn": "rleu"})


@pytest.mark.parametrize("options", [{"tsallis_q": 1.5}, {"log_density_floor": -13.8}])
def test_closed_form_needs_the_plain_divergence(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="analytic_kl"):
        make(analytic_kl=True, **options)


@pytest.mark.parametrize(
    ("odd", "cure"),
    [
        ({"action_space": spaces.Discrete(3)}, "rlopt.MDPO"),
        ({"action_space": spaces.MultiBinary(3)}, "rlopt.MDPO"),
        ({"action_space": spaces.Box(-np.inf, np.inf, (2,))}, "finite bounds"),
        ({"action_space": spaces.Box(np.array([-1.0, -1.0]), np.array([1.0, np.inf]))}, "finite bounds"),
        ({"action_space": spaces.Box(np.array([-1.0, 2.0]), np.array([1.0, 2.0]))}, "without extent"),
        ({"action_space": spaces.Box(-1, 1, (0,))}, "no dimensions"),
        ({"observation_space": spaces.Text(5)}, "FlattenObservation"),
        ({"observation_space": spaces.Discrete(3, start=2)}, "does not count from 0"),
        ({"observation_space": spaces.Box(-1, 1, ())}, "make it an array"),
        ({"observation_space": spaces.Dict({"a": spaces.Text(5)})}, "'a'"),
    ],
)
def test_spaces_that_cannot_be_used(odd: dict[str, Any], cure: str) -> None:
    with pytest.raises(SpaceError, match=cure):
        OffPolicyMDPO("MlpPolicy", OddSpaces(**odd), device="cpu")


def test_spaces_of_an_environment_given_by_id() -> None:
    with pytest.raises(SpaceError, match=r"rlopt\.MDPO"):
        OffPolicyMDPO("MlpPolicy", "CartPole-v1", device="cpu")


@pytest.mark.parametrize("choice", ["her", HerReplayBuffer])
def test_hindsight_replay_without_goals_is_refused(choice: Any) -> None:
    with pytest.raises(ConfigError, match="achieved_goal and desired_goal: leave it off"):
        make(replay_buffer_class=choice)


def test_n_step_returns_that_the_buffers_cannot_give() -> None:
    observations = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})
    with pytest.raises(ConfigError, match="n_steps"):
        OffPolicyMDPO("MultiInputPolicy", OddSpaces(observation_space=observations), n_steps=3, device="cpu")
    with pytest.raises(ConfigError, match="n_steps"):
        make(n_steps=3, optimize_memory_usage=True)


@pytest.mark.parametrize(
    ("where", "bad_value", "normalise"),
    [
        ("observation", math.nan, False),
        ("observation", -math.inf, True),
        ("terminal", math.inf, False),
        ("terminal", math.nan, True),  # VecNormalize clips an infinite terminal observation to a finite one
        ("reward", -math.inf, False),
        ("reward", math.nan, True),
    ],
)
def test_nonfinite_transitions_stop_before_they_are_stored(where: str, bad_value: float, normalise: bool) -> None:
    name = "reward" if where == "reward" else "observation"
    env: Any = DummyVecEnv([lambda: Scripted(where, bad_value=bad_value)])
    model = OffPolicyMDPO(
        "MlpPolicy", VecNormalize(env) if normalise else env, seed=0, **{**SMALL, "learning_starts": 99}
    )
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError, match=f"{name} .*step 15"):
        model.learn(30)
    assert model.replay_buffer is not None and model.replay_buffer.pos == 14


def test_nonfinite_first_observation() -> None:
    with pytest.raises(NonFiniteError, match=r"observation .*step 0"):
        make(Scripted("reset")).learn(30)


def test_nonfinite_critic_loss_stops_before_the_update() -> None:
    model = make(ent_coef=0.1).learn(20)
    assert model.replay_buffer is not None
    model.replay_buffer.rewards[:] = np.nan
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"critic loss .*step 20 \(gradient step 10\)"):
        model.train(3, 8)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))


def test_nonfinite_actor_loss_leaves_the_actor_alone() -> None:
    model = make(kl_coef=0.5, ent_coef=0.1).learn(20)
    assert model.old_actor is not None
    with torch.no_grad():
        model.old_actor.mu.bias.fill_(math.nan)
    before = [value.clone() for value in model.actor.state_dict().values()]
    with pytest.raises(NonFiniteError, match="actor loss"):
        model.train(1, 8)
    assert all(torch.equal(old, new) for old, new in zip(before, model.actor.state_dict().values(), strict=True))


# --- the boundary ---


def test_boundary_is_between_rollouts_and_can_stop_training() -> None:
    model = make(train_freq=4)
    seen: list[tuple[int, int]] = []

    def hook(at: OffPolicyMDPO) -> bool:
        seen.append((at.num_timesteps, at._n_updates))
        return at.num_timesteps < 16

    model.boundary_hook = hook
    model.learn(100)
    assert seen == [(0, 0), (4, 0), (8, 0), (12, 1), (16, 2)]
    assert model.num_timesteps == 16


# --- saving ---


@pytest.mark.parametrize(
    "options",
    [
        {"kl_coef": 0.3, "old_policy_period": 7, "value_network": True, "tsallis_q": 1.5},
        {"kl_coef": 0.3, "use_sde": True, "ent_coef": 0.2},
        {"kl_coef": 0.0},
    ],
)
def test_save_and_load_continue_alike(options: dict[str, Any], tmp_path: Path) -> None:
    model = make(**options).learn(40)
    model.boundary_hook = lambda _: True
    model.save(tmp_path / "model.zip")
    loaded = OffPolicyMDPO.load(tmp_path / "model.zip", env=DummyVecEnv([Scripted]), device="cpu")
    loaded.replay_buffer = model.replay_buffer
    loaded.set_logger(model.logger)
    assert loaded.boundary_hook is None
    assert loaded._n_updates == model._n_updates == 30
    observation = np.array([[0.5, -1.0]], np.float32)
    assert np.array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    results = []
    for each in (model, loaded):
        torch.manual_seed(3)
        np.random.seed(3)
        each.train(12, 8)
        results.append({name: values for name, values in each.get_parameters().items() if "optimizer" not in name})
    names = {"policy"} | ({"old_actor"} if options["kl_coef"] else set())
    names |= {"value_net", "value_net_target"} if options.get("value_network") else set()
    assert set(results[0]) == set(results[1]) == names
    for name in names:
        assert all(torch.equal(value, results[1][name][key]) for key, value in results[0][name].items()), name


def test_model_can_be_rebuilt_from_its_settings() -> None:
    options: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8], "activation_fn": "tanh", "optimizer_class": "adam"},
        "kl_coef": 0.4,
        "value_network": True,
        "ent_coef": "auto_0.5",
        "train_freq": (2, "step"),
    }
    model = make(**options)
    settings = model.constructor_settings
    assert json.loads(json.dumps(settings))["policy_kwargs"] == options["policy_kwargs"]
    assert "env" not in settings and "_init_setup_model" not in settings and "__class__" not in settings
    again = OffPolicyMDPO(env=DummyVecEnv([Scripted]), **json.loads(json.dumps(settings)))
    assert all(torch.equal(old, new) for old, new in zip(weights(model), weights(again), strict=True))
    assert again.train_freq == model.train_freq and again.constructor_settings.keys() == settings.keys()


# --- settings and presets ---


def test_constructor_takes_what_sac_takes_with_sacs_defaults() -> None:
    ours, sac = (inspect.signature(cls.__init__).parameters for cls in (OffPolicyMDPO, SAC))
    ours_names = [name for name in ours if name in sac]
    assert ours_names == list(sac)
    assert {name: ours[name].default for name in sac} == {name: sac[name].default for name in sac}


def test_hindsight_is_a_replay_buffer_with_its_goals() -> None:
    hindsight = OffPolicyMDPOConfig(her=True, her_goals=2).algorithm_kwargs()
    assert hindsight["replay_buffer_class"] == "device_her" and hindsight["replay_buffer_kwargs"]["n_sampled_goal"] == 2


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_presets_are_valid_and_cite_their_source(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#") and "arXiv" in text
    agent = split_settings(yaml.safe_load(text), OffPolicyMDPOConfig, path.stem)[1]
    config = from_mapping(OffPolicyMDPOConfig, agent, path.stem)
    make(**{**config.algorithm_kwargs(), "policy_kwargs": {"net_arch": [4]}, "buffer_size": 10})


def test_what_sac_takes_by_position_is_taken_by_position() -> None:
    model = OffPolicyMDPO("MlpPolicy", "Pendulum-v1", 1e-3, 500, 7, kl_coef=0.2)
    assert (model.learning_rate, model.buffer_size, model.learning_starts, model.kl_coef) == (1e-3, 500, 7, 0.2)
    ours = list(inspect.signature(OffPolicyMDPO).parameters)
    assert ours[:27] == list(inspect.signature(SAC).parameters)[:27]
