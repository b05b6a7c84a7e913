"""Registration with RL Zoo, against a stand-in: its own dependencies contradict this package's tested set."""

import sys
import types
from typing import Any

import pytest
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
    zoo.main([verb, "--algo", "mdpo", "--env", "CartPole-v1"])
    argv = [f"rl_zoo3.{verb}", "--algo", "mdpo", "--env", "CartPole-v1"]
    assert calls == [(verb, argv, ["apo", "deep_loop", "mdpo", "off_policy_mdpo", "ppo", "sac"])]
    assert algos["mdpo"] is rlopt.MDPO and algos["off_policy_mdpo"] is rlopt.OffPolicyMDPO
    assert algos["sac"] is object, "what RL Zoo has stays what it is"


def test_what_rl_zoo_reads_builds_every_registered_agent() -> None:
    settings = dict(zoo.hyperparams["default"])
    assert settings.pop("n_timesteps") > 0
    for cls in zoo.ALGOS.values():
        assert isinstance(cls(env="Pendulum-v1", seed=0, verbose=0, tensorboard_log=None, **settings), BaseAlgorithm)


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        zoo.main(["trian"])
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ConfigError, match="pip install rl_zoo3"):
        zoo.main(["train"])
