"""PPO against Stable-Baselines3's, bit for bit, and its gradient steps in every mode."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from on_policy import ARMS, BUTTONS, FLAT, IMAGE, PARTS, Anything, logged, stepped
from reach import assert_same, needs_compiler, vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

import rlopt
from rlopt.agents.ppo.algorithm import PPO
from rlopt.agents.ppo.losses import ppo_loss
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import ConfigError, NonFiniteError, SpaceError, UnknownNameError
from rlopt.optim.lockstep import Lockstep

CASES: dict[str, tuple[str, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "box": ("MlpPolicy", FLAT, ARMS, {}),
    "discrete": ("MlpPolicy", FLAT, BUTTONS, {"ent_coef": 0.1}),
    "multi-discrete": ("MlpPolicy", FLAT, spaces.MultiDiscrete([2, 3]), {"batch_size": 48}),
    "multi-binary": ("MlpPolicy", FLAT, spaces.MultiBinary(3), {"normalize_advantage": False}),
    "value clipped": ("MlpPolicy", FLAT, ARMS, {"clip_range_vf": 0.1, "vf_coef": 1.0}),
    "stopped early": ("MlpPolicy", FLAT, BUTTONS, {"target_kl": 1e-4, "learning_rate": 3e-3, "n_epochs": 4}),
    "schedules": (
        "MlpPolicy",
        FLAT,
        ARMS,
        {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "clip_range": LinearSchedule(0.3, 0.1, 1.0)},
    ),
    "gsde": ("MlpPolicy", FLAT, ARMS, {"use_sde": True, "sde_sample_freq": 4}),
    "gsde-squashed": ("MlpPolicy", FLAT, ARMS, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "dict": ("MultiInputPolicy", PARTS, BUTTONS, {}),
    "one batch": ("MlpPolicy", FLAT, ARMS, {"batch_size": 500}),
    "image, one extractor": ("CnnPolicy", IMAGE, BUTTONS, {"n_epochs": 1}),
}


def made(cls: Any, case: str, seed: int = 3, **more: Any) -> Any:
    policy, observations, actions, options = CASES[case]
    env = DummyVecEnv([functools.partial(Anything, observations, actions, 7 + n) for n in range(2)])
    settings = {"n_steps": 24, "n_epochs": 2, "batch_size": 16, "device": "cpu", "seed": seed}
    return cls(policy, env, **{**settings, **options, **more})


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", CASES)
def test_not_compiled_it_is_stable_baselines3s_bit_for_bit(case: str) -> None:
    """Networks, Adam's moments, what is logged, and the random numbers that are drawn next."""
    theirs = made(stable_baselines3.PPO, case).learn(160)
    expected, following = logged(theirs), (np.random.random(), torch.rand(()).item())
    ours = made(PPO, case).learn(160)
    assert (np.random.random(), torch.rand(()).item()) == following
    assert ours._n_updates == theirs._n_updates and (case != "stopped early" or ours._n_updates < 4 * 4)
    for name, value in theirs.policy.state_dict().items():
        assert torch.equal(ours.policy.state_dict()[name], value), name
    moments, wanted = (model.policy.optimizer.state_dict()["state"] for model in (ours, theirs))
    assert all(torch.equal(moments[key][name], value) for key in wanted for name, value in wanted[key].items())
    assert logged(ours) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", CASES)
def test_as_a_function_of_tensors_it_is_the_same(case: str) -> None:
    """Alone and stacked: two seeds in one call are the two alone, also where one of them stops earlier."""
    alone = [made(PPO, case, seed).learn(96) for seed in (0, 1)]
    assert_same(stepped(made(PPO, case, 0)).learn(96), alone[0], 1e-4)
    jobs = [lambda seed=seed: stepped(made(PPO, case, seed)).learn(96) for seed in (0, 1)]
    for model, wanted in zip(Lockstep(jobs).run(), alone, strict=True):
        assert model._n_updates == wanted._n_updates
        assert_same(model, wanted, 1e-4)
        assert logged(model) == pytest.approx(logged(wanted), rel=1e-2, abs=1e-4)


@needs_compiler
@pytest.mark.parametrize("case", ["stopped early", "gsde-squashed"])
def test_it_is_compiled(case: str, capsys: Any) -> None:
    small = {"net_arch": [8], **CASES[case][3].get("policy_kwargs", {})}
    compiled = made(PPO, case, compile="on", policy_kwargs=small).learn(48)
    assert [step.mode for step in compiled.prepared.values()] == ["compiled"]
    assert "not compiled" not in capsys.readouterr().out
    assert_same(compiled, made(PPO, case, compile="off", policy_kwargs=small).learn(48), 1e-4)


class Twice(PPO):
    @staticmethod
    def loss(*args: Any, **kwargs: Any) -> Any:
        loss, info = ppo_loss(*args, **kwargs)
        return 2 * loss, info


def test_a_loss_is_changed_in_one_place_for_every_mode() -> None:
    """Plain gradient descent on twice the loss is that at twice the rate."""
    plain = {"optimizer_class": "sgd"}
    double = made(Twice, "box", learning_rate=1e-3, max_grad_norm=float("inf"), policy_kwargs=plain).learn(48)
    fast = made(PPO, "box", learning_rate=2e-3, max_grad_norm=float("inf"), policy_kwargs=plain).learn(48)
    assert_same(double, fast, 1e-6)
    assert_same(stepped(made(Twice, "box")).learn(48), made(Twice, "box").learn(48), 1e-4)


def test_the_loss_is_that_of_the_paper() -> None:
    """Four actions: ratio and advantage on either side of the clip."""
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5], dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    loss, info = ppo_loss(
        ratio.log(), zero, advantages, zero + 0.7, zero + 3, zero + 2.5, zero + 1,
        clip_range=0.2, vf_coef=0.5, ent_coef=0.1, clip_range_vf=0.25,
    )  # fmt: skip
    surrogate = (1.2 + 0.5 - 1.5 - 0.8) / 4
    assert loss.item() == pytest.approx(-surrogate + 0.5 * 1.75**2 - 0.1 * 0.7)
    assert info["clip_fraction"] == 1
    assert info["approx_kl"].item() == pytest.approx(float((ratio - 1 - ratio.log()).mean()))
    with pytest.raises(ValueError, match="seven tensors of one shape"):
        ppo_loss(zero, zero[:, None], *[zero] * 5, clip_range=0.2, vf_coef=0.5, ent_coef=0.0)


@pytest.mark.parametrize("way", ["zip", "sb3 zip", "checkpoint"])
def test_saved_and_loaded_it_acts_and_learns_on(way: str, tmp_path: Path) -> None:
    model = made(stable_baselines3.PPO if way == "sb3 zip" else PPO, "stopped early").learn(96)
    if way == "checkpoint":
        loaded = rlopt.load(save_checkpoint(model, tmp_path), device="cpu")
    else:
        model.save(tmp_path / "model.zip")
        loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    assert isinstance(loaded, PPO) and loaded.target_kl == 1e-4 and loaded.clip_range(1.0) == 0.2
    assert all(map(torch.equal, loaded.policy.state_dict().values(), model.policy.state_dict().values()))
    state, saved = (m.policy.optimizer.state_dict()["state"] for m in (loaded, model))
    assert all(torch.equal(state[key]["exp_avg"], saved[key]["exp_avg"]) for key in saved)
    loaded.set_env(made(PPO, "stopped early").get_env())
    assert loaded.learn(48, reset_num_timesteps=False).num_timesteps == 144


def test_it_is_stable_baselines3s_ppo_to_its_tools() -> None:
    assert issubclass(PPO, stable_baselines3.PPO) and rlopt.PPO is PPO


def test_wrong_settings_are_refused_in_one_line() -> None:
    for name, value in {"clip_range": 0.0, "clip_range_vf": -0.1, "target_kl": 0.0, "batch_size": 1.5}.items():
        with pytest.raises(ConfigError, match=f"^{name} = "):
            made(PPO, "box", **{name: value})
    with pytest.raises(ConfigError, match="batch_size = 1 leaves nothing to standardise"):
        made(PPO, "box", batch_size=1)
    with pytest.raises(UnknownNameError, match=r"PPO has no setting 'step_size': clip_range .*rlopt\.MDPO's"):
        made(PPO, "box", step_size=1.0)
    with pytest.raises(SpaceError, match="PPO cannot use the action space Tuple"):
        PPO("MlpPolicy", DummyVecEnv([lambda: Anything(FLAT, spaces.Tuple((BUTTONS,)), 5)]))


def test_a_broken_reward_is_named_with_its_step() -> None:
    class Broken(Anything):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, float("nan") if self.t == 5 else reward, *rest

    with pytest.raises(NonFiniteError, match="reward is NaN or infinite at step"):
        PPO("MlpPolicy", DummyVecEnv([lambda: Broken(FLAT, ARMS, 30)]), n_steps=32, device="cpu", seed=0).learn(64)


class OwnEvaluation(ActorCriticPolicy):
    def evaluate_actions(self, obs: Any, actions: Any) -> Any:
        return super().evaluate_actions(obs, actions)


@needs_compiler
def test_what_cannot_be_compiled_says_why_once_and_is_stable_baselines3s(capsys: Any) -> None:
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 0}
    ours = PPO(OwnEvaluation, vec_env(2), compile="on", **settings).learn(192)
    said = [line for line in capsys.readouterr().out.splitlines() if "not compiled" in line]
    assert said == ["PPO's gradient steps are not compiled: the policy has an evaluate_actions of its own"]
    theirs = stable_baselines3.PPO(OwnEvaluation, vec_env(2), **settings).learn(192)
    assert_same(ours, theirs, 1e-4)
