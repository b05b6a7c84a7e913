"""The gradient step as one function against the same step taken part by part, and its compiled form."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import SMALL, Reach, ReachGoal, assert_same, make, needs_compiler, vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlopt
from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.agents.mdpo.fused_step import FusedStep
from rlopt.agents.mdpo.fused_update import obstacle
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.mdpo.off_policy_objectives import Objective
from rlopt.checkpoint.files import list_checkpoints
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import NonFiniteError
from rlopt.runs.train import resume
from rlopt.runs.train import train as train_run
from rlopt.settings.run import RunConfig


def collected(**options: Any) -> OffPolicyMDPO:
    """A model whose replay buffer is filled by random actions, the same for the same options."""
    model = make(compile="off", **{"learning_starts": 200, "old_policy_period": 7, **options})
    model.learn(200)
    return model


def fused(model: OffPolicyMDPO) -> OffPolicyMDPO:
    """Makes ``model`` take the step as one function without compiling it."""
    model.compile = "on"  # an objective of one's own asks for it
    model._fused_mode = lambda: "eager"  # type: ignore[method-assign]
    return model


def train(model: OffPolicyMDPO, gradient_steps: int) -> dict[str, float]:
    torch.manual_seed(1)
    np.random.seed(1)
    model.train(gradient_steps, batch_size=16)
    return {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.0},
        {"ent_coef": 0.2, "tsallis_q": 1.5},
        {"kl_coef": 2.0, "kl_unit": "ent_coef"},
        {"analytic_kl": True, "critic_log_prob_bound": 2.0},
        {"log_density_floor": -1.0, "mean_penalty": 0.1, "log_std_penalty": 0.1, "actor_q": "first"},
        {"policy_kwargs": {"net_arch": {"pi": [16], "qf": [8, 8, 8]}, "n_critics": 3, "activation_fn": "tanh"}},
        {"n_steps": 3, "target_update_interval": 3},
        {"n_envs": 4, "policy_kwargs": {"net_arch": []}},
    ],
)
def test_the_fused_step_is_the_step(options: dict[str, Any]) -> None:
    plain, one_call = collected(**options), fused(collected(**options))
    for steps in (1, 99):
        logged = train(plain, steps)
        assert train(one_call, steps) == pytest.approx(logged, rel=1e-4, abs=1e-5)
    assert_same(plain, one_call, 1e-4)
    if plain.old_actor is not None and one_call.old_actor is not None:
        assert torch.allclose(plain.old_actor.mu.weight, one_call.old_actor.mu.weight, atol=1e-4)


def test_the_fused_step_sees_normalised_samples() -> None:
    def model() -> OffPolicyMDPO:
        env = VecNormalize(DummyVecEnv([Reach]))
        model = OffPolicyMDPO("MlpPolicy", env, seed=5, **{**SMALL, "learning_starts": 200})  # type: ignore[arg-type]
        model.learn(200)
        return model

    plain, one_call = model(), fused(model())
    train(plain, 20)
    train(one_call, 20)
    assert_same(plain, one_call, 1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_acting_is_predicting(n_envs: int, deterministic: bool) -> None:
    model = collected(n_envs=n_envs, deterministic_behaviour=deterministic)
    for seed in range(20):
        torch.manual_seed(seed)
        model.fused = None
        actions, scaled = model._sample_action(0, None, n_envs)
        torch.manual_seed(seed)
        model.fused = FusedStep([model], "eager")
        for ours, theirs in zip(model._sample_action(0, None, n_envs), (actions, scaled), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@needs_compiler
def test_the_compiled_step_is_the_step(tmp_path: Path) -> None:
    plain, compiled = collected(), collected()
    compiled.compile = "on"
    logged = train(plain, 20)
    assert train(compiled, 20) == pytest.approx(logged, rel=1e-3, abs=1e-4)
    assert_same(plain, compiled, 1e-3)
    # A learning rate or a coefficient that changes takes effect without compiling anew.
    prepared = compiled.fused._on_batch._ready or compiled.fused._on_rows._ready  # type: ignore[union-attr]
    for model in (plain, compiled):
        model.kl_coef, model.tau = 0.5, 0.1
        model.lr_schedule = lambda _: 1e-2
        train(model, 3)
    assert_same(plain, compiled, 1e-2)
    assert len(prepared) == 1
    # What was trained compiled is saved and loaded like everything else.
    checkpoint = save_checkpoint(compiled, tmp_path)
    loaded = rlopt.load(checkpoint, device="cpu")
    assert_same(compiled, loaded, 0.0)


@needs_compiler
def test_a_broken_batch_stops_before_it_reaches_the_networks() -> None:
    model = collected()
    model.compile = "on"
    train(model, 2)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.replay_buffer.rewards[:] = np.nan  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="critic loss is NaN"):
        train(model, 1)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.log_ent_coef is not None and torch.isfinite(model.log_ent_coef).all()


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run = RunConfig(
        env="Pendulum-v1", total_timesteps=300, checkpoint_every=150, eval_every=0, device="cpu", run_dir=str(whole)
    )
    agent = OffPolicyMDPOConfig(
        compile="on", net_arch=(16, 16), batch_size=16, learning_starts=50, buffer_size=1000, old_policy_period=20
    )
    train_run("off_policy_mdpo", run, agent)
    shutil.copytree(whole, stopped)
    last = list_checkpoints(stopped / "checkpoints")[-1].name
    shutil.rmtree(stopped / "checkpoints" / last)
    torch.manual_seed(99)  # a new process has other random states
    assert resume(stopped).step == 300
    tensors = sorted((whole / "checkpoints" / last).glob("*.safetensors"))
    assert tensors
    for file in tensors:
        assert file.read_bytes() == (stopped / "checkpoints" / last / file.name).read_bytes(), file.name


class NoEntropy(Objective):
    def log_prob(self, policy: losses.PolicySample) -> torch.Tensor:
        return 0 * super().log_prob(policy)


class WithoutEntropy(OffPolicyMDPO):
    @property
    def objective(self) -> Objective:
        return NoEntropy()


def test_another_objective_counts_in_both_ways() -> None:
    def model(cls: type[OffPolicyMDPO]) -> OffPolicyMDPO:
        model = make(cls, compile="off", learning_starts=100, ent_coef=0.5)
        model.learn(100)
        return model

    own, plain, one_call = model(OffPolicyMDPO), model(WithoutEntropy), fused(model(WithoutEntropy))
    losses_seen = [train(m, 1)["train/actor_loss"] for m in (own, plain, one_call)]
    assert losses_seen[1] == pytest.approx(losses_seen[2])
    assert losses_seen[0] != pytest.approx(losses_seen[1])


class OwnStep(OffPolicyMDPO):
    def _update_critic(self, *args: Any) -> Any:
        return super()._update_critic(*args)


def test_what_cannot_be_fused_says_why_and_trains_part_by_part() -> None:
    class Image(Reach):
        observation_space = spaces.Box(-10, 10, (2, 1), np.float32)

    assert obstacle(make()) is None
    assert "use_sde" in str(obstacle(make(use_sde=True)))
    assert "value_network" in str(obstacle(make(value_network=True)))
    assert "_update_critic" in str(obstacle(make(OwnStep)))
    assert "Adam" in str(obstacle(make(policy_kwargs={"optimizer_class": "sgd"})))
    goal = OffPolicyMDPO("MultiInputPolicy", vec_env(env=ReachGoal), **SMALL)  # type: ignore[arg-type]
    assert "flat" in str(obstacle(goal))
    model = make(use_sde=True, compile="on")
    model.learn(40)
    assert model.fused is None and model._n_updates == 20


def test_the_fused_step_reads_the_buffer_that_the_model_has_now() -> None:
    model = collected()
    model.compile = "on"
    update = FusedStep([model], "compiled").update
    assert update.belongs_to([model]) and not update.belongs_to([collected()])
    model.replay_buffer.device = torch.device("cpu")  # type: ignore[union-attr]
    assert not update.belongs_to([model])  # its rows have moved
    update = FusedStep([model], "compiled").update
    model.replay_buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    assert not update.belongs_to([model])


@needs_compiler
def test_a_replaced_buffer_is_the_one_that_is_trained_on() -> None:
    model = collected()
    model.compile = "on"
    train(model, 1)
    model.replay_buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    model.replay_buffer.rewards[:] = 1e6
    assert train(model, 1)["train/critic_loss"] > 1e9
