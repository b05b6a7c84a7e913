"""The imitation learners as Stable-Baselines3 algorithms: exact resume, saving, settings, what is refused."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from demonstrated import CLASSES, ON_POLICY, TASK, demonstrations, make, target_demonstrations
from gymnasium import spaces
from offline_data import recorded
from reach import Reach, ReachGoal, vec_env
from runs import leaves
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import rlopt
from rlopt.agents.imitation import config
from rlopt.agents.imitation.gail import GAIL
from rlopt.agents.imitation.value_dice import ValueDICE
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.errors import ConfigError, DataError, SpaceError, UnknownNameError
from rlopt.registry import AGENTS, AgentSpec

CONFIGS = {
    "sqil": config.SQILConfig,
    "iq_learn": config.IQLearnConfig,
    "value_dice": config.ValueDICEConfig,
    "gail": config.GAILConfig,
    "airl": config.AIRLConfig,
}
EXACT: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "sqil": ("sqil", {}, VecMonitor),
    "sqil, normalised": ("sqil", {}, lambda env: VecNormalize(VecMonitor(env))),
    "iq_learn": ("iq_learn", {"absorbing": True, "ent_coef": "auto"}, VecMonitor),
    "value_dice": ("value_dice", {}, VecMonitor),
    "gail": ("gail", {"n_epochs": 2, "n_value_epochs": 1}, VecMonitor),
    "airl, normalised": ("airl", {"n_epochs": 2, "n_value_epochs": 1}, lambda env: VecNormalize(VecMonitor(env))),
    "gail, normalised": ("gail", {"n_epochs": 2, "n_value_epochs": 1}, lambda env: VecNormalize(VecMonitor(env))),
}


@pytest.mark.parametrize("case", EXACT)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(case: str, tmp_path: Path) -> None:
    name, settings, wrap = EXACT[case]
    if name not in ON_POLICY:
        settings = {**settings, "buffer_size": 60}

    def model(stop: int) -> Any:
        made = make(name, wrap(rlopt.make_env(TASK, n_envs=2, seed=1)), target_demonstrations(), **settings)
        made.boundary_hook = lambda learner: learner.num_timesteps < stop
        return made

    stop, total = (64, 160) if name in ON_POLICY else (46, 90)
    whole = model(total).learn(1000)
    path = save_checkpoint(model(stop).learn(1000), tmp_path)
    torch.rand(3), np.random.rand(3)
    again = learn_from(model(total), read_checkpoint(path).trees, 1000)
    ours, theirs = leaves(dict(capture_state(whole))), leaves(dict(capture_state(again)))
    assert len(ours) > 60 and whole.num_timesteps >= total
    assert ours == theirs


@pytest.mark.parametrize("name", CLASSES)
def test_other_demonstrations_are_refused_on_resume(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.boundary_hook = lambda learner: learner.num_timesteps < 30
    path = save_checkpoint(model.learn(200), tmp_path)
    trees = read_checkpoint(path).trees
    with pytest.raises(ConfigError, match="other demonstrations"):
        learn_from(make(name, n_demonstrations=2), trees, 200)
    assert learn_from(make(name), trees, 50).num_timesteps >= 50


@pytest.mark.parametrize("name", CLASSES)
def test_a_loaded_model_predicts_without_demonstrations_and_asks_for_them_to_train(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = CLASSES[name]
    spec = AgentSpec(f"rlopt.agents.imitation.config:{cls.__name__}Config", f"{cls.__module__}:{cls.__name__}", "")
    monkeypatch.setitem(AGENTS, name, spec)
    model = make(name, n_demonstrations=3)
    model.boundary_hook = lambda learner: learner.num_timesteps < 40
    save_checkpoint(model.learn(200), tmp_path / "checkpoints")
    observations = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    actions = model.predict(observations, deterministic=True)[0]
    model.boundary_hook = None
    model.save(tmp_path / "model.zip")
    for loaded in (rlopt.load(tmp_path / "checkpoints", device="cpu"), cls.load(tmp_path / "model.zip", device="cpu")):
        assert loaded.demonstrations is None and loaded.n_demonstrations == 3
        assert np.array_equal(loaded.predict(observations, deterministic=True)[0], actions)
        loaded.set_env(vec_env())
        with pytest.raises(ConfigError, match="call set_demonstrations"):
            loaded.learn(32)
        loaded.set_demonstrations(demonstrations())
        assert loaded.data_fingerprint == model.data_fingerprint
        loaded.learn(32)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sqil", {"replay_buffer_class": "device"}, "no setting replay_buffer_class"),
        ("sqil", {"n_steps": 3}, "no setting n_steps"),
        ("sqil", {"batch_size": 1}, "batch_size = 1 is outside"),
        ("sqil", {"gamma": 1.0}, "no finite value"),
        ("sqil", {"n_demonstrations": 0}, "n_demonstrations = 0 is outside"),
        ("iq_learn", {"chi_alpha": 0.0}, "chi_alpha = 0.0 is outside"),
        ("iq_learn", {"n_steps": 3}, "no setting n_steps"),
        ("iq_learn", {"actor_learning_rate": -1.0}, "actor_learning_rate = -1.0 is outside"),
        ("iq_learn", {"use_target": 1}, "use_target = 1 is not true or false"),
        ("iq_learn", {"absorbing": True, "regularize_policy": False}, "absorbing needs regularize_policy"),
        ("value_dice", {"replay_weight": 1.0}, "replay_weight = 1.0 is outside"),
        ("value_dice", {"tau": 0.1}, "no setting tau"),
        ("value_dice", {"policy_kwargs": {"n_critics": 2}}, "no n_critics"),
        ("gail", {"discriminator_steps": 0}, "discriminator_steps = 0 is outside"),
        ("gail", {"gamma": 1.0}, "no finite value"),
        ("gail", {"absorbing": "yes"}, "absorbing = 'yes' is not true or false"),
    ],
)
def test_settings_out_of_range_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, **settings)


@pytest.mark.parametrize("name", CLASSES)
def test_demonstrations_come_third_and_the_flags_of_the_command_are_no_arguments(name: str) -> None:
    parameters = list(inspect.signature(CLASSES[name]).parameters)
    assert parameters[:3] == ["policy", "env", "demonstrations"]
    assert {field.name for field in dataclasses.fields(CONFIGS[name])} >= {"demos", "n_demos", "subsample"}
    assert not {"demos", "n_demos", "subsample"} & {*CONFIGS[name]().algorithm_kwargs(), *parameters}
    assert CONFIGS[name](n_demos=4).algorithm_kwargs()["n_demonstrations"] == 4


def test_names_and_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="value_expert"):
        make("iq_learn", value_term="value_expertt")
    with pytest.raises(UnknownNameError, match="airl"):
        make("gail", reward_form="arl")
    with pytest.raises(ConfigError, match="no setting reward_form"):
        make("airl", reward_form="gail")
    with pytest.raises(DataError, match=r"Demonstrations\.from_dataset"):
        make("sqil", shown=recorded(Reach(), "x", 20, lambda *_: np.zeros(2, np.float32)))
    with pytest.raises(DataError, match=r"observations  have shape \(2,\)"):
        make("sqil", env=DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    with pytest.raises(DataError, match=f"not of {TASK}"):
        make("sqil", env=rlopt.make_env(TASK))
    with pytest.raises(SpaceError, match="FlattenObservation"):
        ValueDICE("MultiInputPolicy", vec_env(env=ReachGoal))
    with pytest.raises(ConfigError, match="without VecNormalize"):
        make("value_dice", env=VecNormalize(vec_env())).learn(10)
    switches = type("Switches", (Reach,), {"action_space": spaces.MultiBinary(2)})
    with pytest.raises(SpaceError, match="Box or Discrete actions"):
        GAIL("MlpPolicy", vec_env(env=switches))
