"""Registration with RL Zoo, against a stand-in: its own dependencies contradict this package's tested set."""

import ast
import sys
import types
from typing import Any

import optuna
import pytest
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm

import rlopt
from rlopt import zoo
from rlopt.errors import ConfigError, UnknownNameError


def stand_in(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> dict[str, Any]:
    """Modules with the names that RL Zoo 2.9 has: one ALGOS dict that all share, and a function a verb."""
    algos: dict[str, Any] = {"ppo": object, "sac": object}
    package = types.ModuleType("rl_zoo3")
    package.ALGOS = algos  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rl_zoo3", package)
    options = types.ModuleType("rl_zoo3.hyperparams_opt")
    options.HYPERPARAMS_SAMPLER = {"ppo": object}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rl_zoo3.hyperparams_opt", options)
    for verb in ("train", "enjoy"):
        module = types.ModuleType(f"rl_zoo3.{verb}")
        setattr(module, verb, lambda verb=verb: calls.append((verb, list(sys.argv), sorted(algos))))
        monkeypatch.setitem(sys.modules, f"rl_zoo3.{verb}", module)
    monkeypatch.setattr(sys, "argv", ["untouched"])
    return algos


@pytest.mark.parametrize("verb", ["train", "enjoy"])
def test_the_agents_are_registered_before_rl_zoo_starts(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    algos = stand_in(monkeypatch, calls)
    words = ["--algo", "mdpo", "--env", "CartPole-v1", "--conf-file", "my.yml"]
    zoo.main([verb, *words])
    argv = [f"rl_zoo3.{verb}", *words]
    assert set(sys.modules["rl_zoo3.hyperparams_opt"].HYPERPARAMS_SAMPLER) == {"ppo", "mdpo", "off_policy_mdpo"}
    assert calls == [(verb, argv, ["apo", "deep_loop", "differential_dqn", "mdpo", "off_policy_mdpo", "ppo", "sac"])]
    assert algos["mdpo"] is rlopt.MDPO and algos["off_policy_mdpo"] is rlopt.OffPolicyMDPO
    assert algos["sac"] is object, "what RL Zoo has stays what it is"


def test_presets_are_the_hyperparameters_unless_others_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    stand_in(monkeypatch, calls)
    zoo.main(["train", "--algo", "mdpo", "--env", "Hopper-v5"])
    assert calls[0][1][-2] == "--conf-file"
    zoo.main(["hyperparams", "--algo", "mdpo"])
    written = yaml.safe_load(capsys.readouterr().out)
    hopper = written["Hopper-v5"]  # as configs/mdpo/mujoco/hopper.yaml has it, in RL Zoo's notation
    assert hopper["learning_rate"] == "lin_0.001" and (hopper["n_envs"], hopper["n_steps"]) == (16, 128)
    assert ast.literal_eval(hopper["normalize"]) == {"norm_obs": True, "norm_reward": True, "gamma": 0.99}
    assert ast.literal_eval(written["HalfCheetah-v5"]["policy_kwargs"])["net_arch"] == {"pi": [64, 64], "vf": [64, 64]}
    assert set(written["default"]) == {"policy", "n_timesteps"}
    known = zoo.zoo_hyperparameters("off_policy_mdpo")
    assert known["Walker2d-v5"]["kl_coef"] == 0.8 and not any(env.startswith("dm_control/") for env in known)


@pytest.mark.parametrize("agent", sorted(zoo.SAMPLERS))
def test_what_is_sampled_builds_the_agent(agent: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        settings = zoo.SAMPLERS[agent](study.ask(), 1, 1, {})
        assert isinstance(zoo.ALGOS[agent]("MlpPolicy", "Pendulum-v1", device="cpu", **settings), BaseAlgorithm)


def test_what_rl_zoo_reads_builds_every_registered_agent() -> None:
    settings = dict(zoo.hyperparams["default"])
    assert settings.pop("n_timesteps") > 0
    for name, cls in zoo.ALGOS.items():
        env = "CartPole-v1" if name == "differential_dqn" else "Pendulum-v1"
        assert isinstance(cls(env=env, seed=0, verbose=0, tensorboard_log=None, **settings), BaseAlgorithm)


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        zoo.main(["trian"])
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ConfigError, match="pip install rl_zoo3"):
        zoo.main(["train"])
