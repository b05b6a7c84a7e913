"""Checks of an agent, for the tests of its author: every deep agent of rlopt passes the same.

In a test suite, each check is a test::

    import pytest
    from rlopt.testing import CHECKS, Contract

    @pytest.mark.parametrize("check", CHECKS)
    def test_contract(check, tmp_path):
        check(Contract("theirs", {"n_steps": 32}), tmp_path)

Elsewhere, ``check_agent("theirs", n_steps=32)`` makes all of them. They are assertions and need no pytest.
"""

import functools
import inspect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
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

from rlopt.algorithms.resumable import Resumable
from rlopt.checkpoint.files import latest_checkpoint
from rlopt.checkpoint.load import load
from rlopt.checkpoint.model_state import learn_from, save_checkpoint
from rlopt.data import Dataset, Demonstrations, Metadata
from rlopt.envs.make import make_env
from rlopt.errors import ConfigError, SpaceError
from rlopt.export.read import load_policy
from rlopt.export.write import export
from rlopt.registry import AgentSpec, agent_name, agent_spec, import_agent, resolve
from rlopt.settings.fields import field_types
from rlopt.settings.schedules import DecayingRate

ENV = "Pendulum-v1"
"""The task of the checks: three observed numbers, one action in [-2, 2], episodes of 200 steps."""
DISCRETE_ENV = "rlopt/DiscretePendulum-v0"
"""The same with five actions, for agents that refuse real ones."""
OBSERVATION = np.array([0.3, -0.2, 1.0], np.float32)


@dataclass(frozen=True)
class Contract:
    """An agent to be checked, with settings that make it quick."""

    agent: str
    """A name of ``rlopt train --help``, or ``module:Class``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments: under 100 steps must be enough for an update."""
    optimizer: str | type[torch.optim.Optimizer] = torch.optim.AdamW
    """An optimiser other than its own, as the agent takes it in ``policy_kwargs``: a class, or a name."""

    @property
    def spec(self) -> AgentSpec:
        """The agent's entry; raises :class:`rlopt.errors.ConfigError` if it is not a Stable-Baselines3 algorithm"""
        spec = agent_spec(import_agent(self.agent))
        if spec.loader:
            raise ConfigError(f"{self.agent} is not a Stable-Baselines3 algorithm: this contract is for those")
        return spec

    @property
    def learns_from_data(self) -> bool:
        """Whether its steps are gradient steps, so that it plays no episodes."""
        return self.spec.step_unit == "gradient steps"

    def takes(self, *names: str) -> bool:
        """Whether the constructor has all these arguments."""
        return set(names) <= set(inspect.signature(resolve(self.spec.algorithm)).parameters)

    @functools.cached_property
    def env(self) -> str:
        """The task: Pendulum, or for an agent that refuses its actions the one with Discrete actions."""
        try:
            self._built(ENV, 1)
        except (SpaceError, AssertionError):  # the second is Stable-Baselines3's
            if DISCRETE_ENV not in gymnasium.registry:
                gymnasium.register(DISCRETE_ENV, entry_point="rlopt.testing:discrete_pendulum", max_episode_steps=200)
            return DISCRETE_ENV
        return ENV

    def build(self, n_envs: int = 1, **settings: Any) -> Any:
        """A new model, the same every time; data or demonstrations are of random actions."""
        return self._built(self.env, n_envs, **settings)

    def _built(self, task: str, n_envs: int, **settings: Any) -> Any:
        env = VecMonitor(make_env(task, n_envs=n_envs, seed=1))
        given = {"policy": "MlpPolicy", "seed": 0, "device": "cpu", **self.settings, **settings}
        if self.takes("dataset"):
            given.setdefault("dataset", random_data(task))
        if self.takes("demonstrations") and getattr(resolve(self.spec.config), "needs_demos", True):
            given.setdefault("demonstrations", Demonstrations.from_dataset(random_data(task)))
        return resolve(self.spec.algorithm)(env=env, **given)


def discrete_pendulum() -> gymnasium.Env[Any, Any]:
    """Pendulum with five torques, without its time limit."""
    return gymnasium.wrappers.DiscretizeAction(gymnasium.make(ENV).unwrapped, 5)


def random_data(task: str, steps: int = 600) -> Dataset:
    """Whole episodes of random actions."""
    env = gymnasium.make(task)
    env.action_space.seed(0)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "discounts", "episode_ends")
    }
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        row = (observation, action, reward, following, not terminated, terminated or truncated)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        observation = env.reset()[0] if terminated or truncated else following
    ends = np.array(columns.pop("episode_ends"), bool)
    ends[-1] = True
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    arrays |= {name: arrays[name].astype(np.float32) for name in ("rewards", "discounts")}
    return Dataset(**arrays, episode_ends=ends, metadata=Metadata(env=task, generator="random actions", seed=0))


def learns_predicts_and_is_reproducible(contract: Contract, folder: Path) -> None:
    """Learning changes the policy, the same way each time, and ``predict`` gives actions of the space."""
    first, second = contract.build(n_envs=2).learn(128), contract.build(n_envs=2).learn(128)
    assert first.num_timesteps == 128, f"{first.num_timesteps} steps instead of 128"
    assert equal(parameters(first), parameters(second)), "two models of the same seed learn different policies"
    assert not equal(parameters(first), parameters(contract.build(n_envs=2))), "learning left the policy as it was"
    action, state = first.predict(np.zeros(3, np.float32), deterministic=True)
    assert state is None and first.action_space.contains(action)
    batch, _ = first.predict(np.zeros((5, 3), np.float32))
    assert batch.shape == (5, *first.action_space.shape)


def works_with_sb3_evaluation_and_set_env(contract: Contract, folder: Path) -> None:
    """Stable-Baselines3's ``evaluate_policy`` plays it, and it learns on in another environment."""
    model = contract.build().learn(64)
    mean, std = evaluate_policy(model, gymnasium.make(contract.env), n_eval_episodes=2, warn=False)
    assert isinstance(mean, float) and isinstance(std, float)
    assert -2000 < mean < 0 <= std  # bounds of Pendulum's returns
    before = model.num_timesteps
    model.set_env(VecMonitor(make_env(contract.env, seed=9)))
    model.learn(32, reset_num_timesteps=False)
    assert model.num_timesteps >= before + 32


def constructor_takes_every_setting_of_its_config(contract: Contract, folder: Path) -> None:
    """The class has an argument for each setting, keeps what it was given, and is the one that the name stands for."""
    config, algorithm = resolve(contract.spec.config)(), resolve(contract.spec.algorithm)
    settings = config.algorithm_kwargs()
    assert contract.takes(*settings), f"the constructor lacks {set(settings)}"
    assert set(field_types(type(config))) == {field.name for field in fields(config)}
    assert issubclass(algorithm, Resumable) and agent_name(algorithm) == contract.agent
    model = algorithm("MlpPolicy", make_env(contract.env), **settings)
    for name, value in settings.items():
        assert model.constructor_settings[name] == value, f"constructor_settings[{name!r}] is not what was given"


def sb3_zip_round_trip(contract: Contract, folder: Path) -> None:
    """``save`` and ``load``, as of any Stable-Baselines3 algorithm."""
    model = contract.build().learn(96)
    model.save(folder / "model.zip")
    loaded = type(model).load(folder / "model.zip", device="cpu")
    np.testing.assert_array_equal(act(loaded, OBSERVATION), act(model, OBSERVATION))


def exported_policy_acts_as_predict(contract: Contract, folder: Path) -> None:
    """``rlopt export`` to TorchScript, ONNX and Stable-Baselines3's zip."""
    model = contract.build(n_envs=2).learn(64)
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * np.array(
        [0.5, 0.5, 4.0], np.float32
    )
    for to in ("torchscript", "onnx", "sb3"):
        path = folder / f"policy.{to}"
        assert export(model, path, to) < 1e-4
        assert [path.name for path in folder.iterdir()] == [path.name]
        loaded: Any = type(model).load(path) if to == "sb3" else load_policy(path)
        np.testing.assert_allclose(act(loaded, observations), act(model, observations), rtol=1e-4, atol=1e-5)
        path.unlink()


def sb3_callbacks_do_their_work(contract: Contract, folder: Path) -> None:
    """Evaluation, checkpoints and events of Stable-Baselines3, while it learns."""
    model = contract.build(n_envs=2)
    calls: list[int] = []
    evaluation = EvalCallback(
        VecMonitor(make_env(contract.env, seed=5)),
        callback_on_new_best=StopTrainingOnRewardThreshold(-1e9),
        n_eval_episodes=1,
        eval_freq=50,
        log_path=str(folder / "log"),
        best_model_save_path=str(folder / "best"),
        verbose=0,
    )

    def called(here: Any, there: Any) -> bool:
        calls.append(1)
        return True

    kept = CheckpointCallback(20, str(folder / "kept"), name_prefix="model")
    model.learn(1000, callback=[kept, EveryNTimesteps(10, ConvertCallback(called)), evaluation])
    # Any return is above the threshold, so training ends with the first evaluation, at the 50th call.
    assert evaluation.n_calls == 50 and evaluation.best_mean_reward > -1e9
    assert np.load(folder / "log/evaluations.npz")["results"].shape == (1, 1)
    assert len(calls) >= 4 and len(list((folder / "kept").glob("model_*_steps.zip"))) == 2
    best = type(model).load(folder / "best/best_model.zip", device="cpu")
    assert act(best, OBSERVATION).shape == act(model, OBSERVATION).shape


def sb3_callbacks_stop_training(contract: Contract, folder: Path) -> None:
    """A callback that returns False ends ``learn``."""
    steps = 100 if contract.learns_from_data else 2000
    model = contract.build(n_envs=2).learn(steps, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == steps if contract.learns_from_data else model.num_timesteps < 500
    assert contract.build().learn(500, callback=lambda here, there: False).num_timesteps < 100


def stopped_and_continued_it_is_as_never_stopped(contract: Contract, folder: Path) -> None:
    """From a checkpoint it continues bit for bit, also with another optimiser and a learning rate that decays."""
    settings: dict[str, Any] = {}
    if contract.takes("policy_kwargs"):
        settings["policy_kwargs"] = {"optimizer_class": contract.optimizer, "net_arch": [8]}
    if contract.takes("learning_rate"):
        settings["learning_rate"] = DecayingRate(1e-3, "cosine", warmup=0.2)
    # Of an agent that acts, an episode ends after the stop.
    steps = 130 if contract.learns_from_data else 230
    whole = contract.build(**settings).learn(steps)
    used = optimizers(whole)
    if contract.takes("policy_kwargs"):
        wanted = contract.optimizer
        wanted = wanted if isinstance(wanted, str) else wanted.__name__
        assert used and {type(part).__name__.lower() for part in used} == {wanted.lower()}

    def keep(model: Any) -> bool:
        if model.num_timesteps < 100:
            return True
        save_checkpoint(model, folder)
        return False

    stopped = contract.build(**settings)
    stopped.boundary_hook = keep
    stopped.learn(steps)
    assert list(folder.iterdir()), "boundary_hook was not called: begin collect_rollouts with at_boundary()"
    resumed = contract.build(**settings)
    learn_from(resumed, latest_checkpoint(folder, print).trees, steps)
    assert resumed.num_timesteps == whole.num_timesteps
    assert equal(parameters(whole), parameters(resumed)), "the continued model is not the one that was never stopped"
    assert {type(part) for part in optimizers(load(folder, device="cpu"))} == {type(part) for part in used}


def parameters(model: BaseAlgorithm) -> list[torch.Tensor]:
    """Copies of all that the policy holds."""
    return [value.clone() for value in model.policy.state_dict().values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether all tensors are the same, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def act(model: Any, observations: np.ndarray) -> np.ndarray:
    """The deterministic actions."""
    actions: np.ndarray = model.predict(observations, deterministic=True)[0]
    return actions


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Those of the policy's networks."""
    policy = model.policy
    owners = [policy, *(getattr(policy, part, None) for part in ("actor", "critic"))]
    found = [getattr(owner, "optimizer", None) for owner in owners]
    found += [getattr(policy, f"{part}_optimizer", None) for part in ("actor", "critics", "value")]
    return [optimizer for optimizer in found if optimizer is not None]


CHECKS: tuple[Callable[[Contract, Path], None], ...] = (
    learns_predicts_and_is_reproducible,
    works_with_sb3_evaluation_and_set_env,
    constructor_takes_every_setting_of_its_config,
    sb3_zip_round_trip,
    exported_policy_acts_as_predict,
    sb3_callbacks_do_their_work,
    sb3_callbacks_stop_training,
    stopped_and_continued_it_is_as_never_stopped,
)
"""Each takes the agent and an empty folder, and raises AssertionError where the agent falls short."""


def check_agent(agent: str, **settings: Any) -> None:
    """Tries an agent on every check of the contract, on Pendulum, in about a minute.

    :param agent: a name of ``rlopt train --help``, or ``module:Class``
    :param settings: constructor arguments that make it quick
    :raises AssertionError: at the first check that it fails, named in a note
    """
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(Contract(agent, settings), Path(folder))
            except Exception as error:
                error.add_note(f"{agent} failed: {check.__name__}")
                raise
