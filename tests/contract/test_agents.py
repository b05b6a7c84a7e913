"""What every registered deep agent must do, tried on each of them."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from offline_data import pendulum
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

import rlopt
from rlopt.agents.imitation.base import FromDemonstrations
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.checkpoint import latest_checkpoint
from rlopt.config import field_types
from rlopt.data import Demonstrations
from rlopt.export import export
from rlopt.registry import AGENTS, agent_name, agent_spec, resolve
from rlopt.resumable import Resumable
from rlopt.schedules import DecayingRate
from rlopt.state import learn_from, save_checkpoint

SMALL: dict[str, dict[str, Any]] = {
    "mdpo": {"n_steps": 32, "n_epochs": 2, "value_batch_size": 32},
    "off_policy_mdpo": {"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "kl_coef": 0.1},
    "deep_loop": {"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "n_features": 16, "min_interval": 20},
}
SMALL |= {name: {"batch_size": 16, "buffer_size": 500} for name in ("bc", "td3_bc", "awac", "iql", "cql", "rebrac")}
OFF_POLICY = {"learning_starts": 20, "buffer_size": 500, "batch_size": 16}
ROUNDS = {"learner_steps": 0, "policy_steps": 32, "discriminator_steps": 2, "discriminator_batch_size": 16}
SMALL |= {"ailboost": {**OFF_POLICY, **ROUNDS}, "dac": {**OFF_POLICY, **ROUNDS}}
SMALL |= dict.fromkeys(("sqil", "iq_learn", "value_dice"), OFF_POLICY)
SMALL["gail"] = {**SMALL["mdpo"], "discriminator_steps": 2, "discriminator_batch_size": 16}


@pytest.fixture(params=sorted(name for name, spec in AGENTS.items() if not spec.loader))
def agent(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(agent: str, env: Any = "Pendulum-v1", n_envs: int = 1, **kwargs: Any) -> BaseAlgorithm:
    algorithm = resolve(agent_spec(agent).algorithm)
    vec_env = VecMonitor(rlopt.make_env(env, n_envs=n_envs, seed=1)) if isinstance(env, str) else env
    settings = {"policy": "MlpPolicy", "seed": 0, "device": "cpu", **SMALL[agent], **kwargs}
    if issubclass(algorithm, OfflineAlgorithm):
        settings["dataset"] = pendulum()
    if issubclass(algorithm, FromDemonstrations):
        settings["demonstrations"] = Demonstrations.from_dataset(pendulum())
    model: BaseAlgorithm = algorithm(env=vec_env, **settings)
    return model


def parameters(model: BaseAlgorithm) -> list[torch.Tensor]:
    return [value.clone() for value in model.policy.state_dict().values()]


def test_learns_predicts_and_is_reproducible(agent: str) -> None:
    first, second = build(agent, n_envs=2).learn(128), build(agent, n_envs=2).learn(128)
    assert first.num_timesteps == 128
    assert all(torch.equal(a, b) for a, b in zip(parameters(first), parameters(second), strict=True))
    initial = parameters(build(agent, n_envs=2))
    assert any(not torch.equal(a, b) for a, b in zip(parameters(first), initial, strict=True))
    action, state = first.predict(np.zeros(3, np.float32), deterministic=True)
    assert state is None and first.action_space.contains(action)
    batch, _ = first.predict(np.zeros((5, 3), np.float32))
    assert batch.shape == (5, 1)


def test_works_with_sb3_evaluation_and_set_env(agent: str) -> None:
    model = build(agent).learn(64)
    mean, std = evaluate_policy(model, gymnasium.make("Pendulum-v1"), n_eval_episodes=2, warn=False)
    assert -2000 < mean < 0 <= std
    model.set_env(VecMonitor(rlopt.make_env("Pendulum-v1", seed=9)))
    model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps >= 96


def test_constructor_takes_every_setting_of_its_config(agent: str) -> None:
    spec = agent_spec(agent)
    config, algorithm = resolve(spec.config)(), resolve(spec.algorithm)
    accepted = set(inspect.signature(algorithm).parameters)
    assert set(config.algorithm_kwargs()) <= accepted
    assert set(field_types(type(config))) == {field.name for field in fields(config)}
    assert issubclass(algorithm, Resumable) and agent_name(algorithm) == agent
    model = algorithm("MlpPolicy", rlopt.make_env("Pendulum-v1"), **config.algorithm_kwargs())
    for name, value in config.algorithm_kwargs().items():
        assert model.constructor_settings[name] == value, name


def test_sb3_zip_round_trip(agent: str, tmp_path: Path) -> None:
    model = build(agent).learn(96)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", device="cpu")
    observation = np.array([0.3, -0.2, 1.0], np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)


@pytest.mark.parametrize("to", ["torchscript", "onnx", "sb3"])
def test_the_exported_policy_acts_as_predict(agent: str, to: str, tmp_path: Path) -> None:
    model: Any = build(agent, n_envs=2).learn(64)
    assert export(model, tmp_path / f"policy.{to}", to) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [f"policy.{to}"]
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * [0.5, 0.5, 4.0]
    expected = model.predict(observations.astype(np.float32), deterministic=True)[0]
    read: Any = type(model).load if to == "sb3" else rlopt.load_policy
    loaded = read(tmp_path / f"policy.{to}")
    np.testing.assert_allclose(loaded.predict(observations, deterministic=True)[0], expected, rtol=1e-4, atol=1e-5)


def test_sb3_callbacks_do_their_work(agent: str, tmp_path: Path) -> None:
    model = build(agent, n_envs=2)
    stop = StopTrainingOnRewardThreshold(-1e9)
    calls: list[int] = []
    evaluation = EvalCallback(
        VecMonitor(rlopt.make_env("Pendulum-v1", seed=5)),
        callback_on_new_best=stop,
        n_eval_episodes=1,
        eval_freq=50,
        log_path=str(tmp_path / "log"),
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
    )
    kept = CheckpointCallback(20, str(tmp_path / "kept"), name_prefix="model")
    every = EveryNTimesteps(10, ConvertCallback(lambda here, there: calls.append(1) or True))
    model.learn(1000, callback=[kept, every, evaluation])
    # Any return is above the threshold, so training ends with the first evaluation, at the 50th call.
    assert evaluation.n_calls == 50 and evaluation.best_mean_reward > -1e9
    assert np.load(tmp_path / "log/evaluations.npz")["results"].shape == (1, 1)
    assert len(calls) >= 4 and len(list((tmp_path / "kept").glob("model_*_steps.zip"))) == 2
    best = type(model).load(tmp_path / "best/best_model.zip", device="cpu")
    observation = np.array([0.3, -0.2, 1.0], np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    assert best.predict(observation, deterministic=True)[0].shape == expected.shape


def test_sb3_callbacks_stop_training(agent: str) -> None:
    model = build(agent, n_envs=2)
    if isinstance(model, OfflineAlgorithm):  # plays no episodes
        assert model.learn(100, callback=StopTrainingOnMaxEpisodes(1)).num_timesteps == 100
    else:
        assert model.learn(2000, callback=StopTrainingOnMaxEpisodes(1)).num_timesteps < 500
    assert build(agent).learn(500, callback=lambda here, there: False).num_timesteps < 100


def test_another_optimizer_and_a_schedule_resume_bit_for_bit(agent: str, tmp_path: Path) -> None:
    name = "exadam" if agent == "value_dice" else "adahessian"  # ValueDICE refuses second derivatives
    policy = {"optimizer_class": name, "net_arch": [8]}
    settings = {"policy_kwargs": policy, "learning_rate": DecayingRate(1e-3, "cosine", warmup=0.2)}
    whole = build(agent, **settings).learn(230)
    used = [type(part).__name__.lower() for part in optimizers(whole)]
    assert used and set(used) == {name}

    def keep(model: Any) -> bool:
        if model.num_timesteps < 100:
            return True
        save_checkpoint(model, tmp_path)
        return False

    stopped = build(agent, **settings)
    stopped.boundary_hook = keep
    stopped.learn(230)
    resumed = build(agent, **settings)
    learn_from(resumed, latest_checkpoint(tmp_path, print).trees, 230)
    assert resumed.num_timesteps == whole.num_timesteps
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))
    loaded = rlopt.load(tmp_path, device="cpu")
    assert {type(part) for part in optimizers(loaded)} == {type(part) for part in optimizers(whole)}


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Those of the policy's networks."""
    policy = model.policy
    owners = [policy, *(getattr(policy, part, None) for part in ("actor", "critic"))]
    found = [getattr(owner, "optimizer", None) for owner in owners]
    found += [getattr(policy, f"{part}_optimizer", None) for part in ("actor", "critics", "value")]
    return [optimizer for optimizer in found if optimizer is not None]
