"""Gradient steps that a CUDA graph takes, against the same steps taken one kernel after the other on the device."""

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch
from demonstrated import assert_alike
from demonstrated import make as imitator
from offline_data import pendulum
from reach import assert_same, make, vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from transitions import expert_of_random_target

import rlopt
from rlopt.agents.mdpo.losses import policy_loss
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac.batch import Step
from rlopt.checkpoint.model_state import capture_state, restore_state
from rlopt.optim.descent import Network
from rlopt.optim.lockstep import Lockstep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs cannot be tried")
DEVICE: dict[str, Any] = {"device": "cuda", "seed": 3}


def off_policy(compile: str, **options: Any) -> Any:
    """Random actions, then 8 gradient steps: no action depends on how they are taken."""
    model = make(compile=compile, **{**DEVICE, "learning_starts": 40, **options}).learn(40)
    torch.manual_seed(1)
    model.train(gradient_steps=8, batch_size=16)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.0, "ent_coef": 0.2, "learning_rate": lambda left: 1e-3 * left},
        {
            "old_policy_period": 7,
            "target_update_interval": 3,
            "n_steps": 3,
            "policy_kwargs": {"net_arch": [16, 16], "n_critics": 3},
        },
    ],
)
def test_off_policy(options: dict[str, Any]) -> None:
    captured, eager = off_policy("on", **options), off_policy("off", **options)
    assert captured.update.step.mode == "cuda_graph" and eager.update is None
    assert_same(captured, eager, 1e-4)
    assert not torch.allclose(captured.actor.mu.weight, off_policy("off", learning_starts=40, seed=4).actor.mu.weight)


class ConstantCritics(OffPolicyMDPO):
    """Its critics learn a constant."""

    goal = 3.0

    def critic_objective(self, critic: Network, step: Step) -> tuple[torch.Tensor, Any]:
        q_values = torch.cat(self.q_values(critic, step.batch.observations, step.batch.actions), dim=1)
        loss = (q_values - self.goal).square().mean()
        return loss, {"critic_loss": loss.detach()}


def test_a_critic_loss_of_ones_own_is_captured() -> None:
    captured, eager = (off_policy(mode, cls=ConstantCritics) for mode in ("on", "off"))
    assert captured.update.step.mode == "cuda_graph" and eager.update is None
    assert_same(captured, eager, 1e-4)
    usual = off_policy("off")
    assert not torch.allclose(captured.critic.qf0[0].weight, usual.critic.qf0[0].weight, atol=1e-3)


def test_a_learning_rate_that_changes_reaches_the_graph() -> None:
    models = [off_policy(mode) for mode in ("on", "off")]
    for model in models:
        model.lr_schedule = lambda _: 0.0
        model.set_random_seed(2)
        before = model.actor.mu.weight.clone()
        model.train(gradient_steps=5, batch_size=16)
        torch.testing.assert_close(model.actor.mu.weight, before, rtol=0, atol=0)
        model.lr_schedule = lambda _: 1e-2
        model.train(gradient_steps=5, batch_size=16)
        assert not torch.allclose(model.actor.mu.weight, before, atol=1e-3)
    assert_same(*models, 1e-3)


def test_the_policy_that_acts_follows() -> None:
    model = make(compile="on", **DEVICE).learn(30)
    with torch.no_grad():
        newest = [tensor.cpu() for tensor in model.actor.parameters()]
    model.train(gradient_steps=1, batch_size=16)
    for acting, before in zip(model.update.acting.parameters(), newest, strict=True):
        assert acting.device.type == "cpu" and torch.equal(acting, before)


def test_seeds_that_train_together() -> None:
    def job(seed: int) -> Callable[[], Any]:
        return lambda: make(compile="on", device="cuda", seed=seed).learn(40)

    together = Lockstep([job(seed) for seed in (1, 2, 3)]).run()
    assert together[0].update is together[2].update and together[0].update.step.mode == "cuda_graph"
    for seed, model in zip((1, 2, 3), together, strict=True):
        assert_same(model, job(seed)(), 1e-3)


@pytest.mark.parametrize("name", ["AILBoost", "DAC"])
def test_adversarial_imitation(name: str) -> None:
    """Rewards come from the discriminator as it is, inside the graph; it is trained between two replays."""

    def trained(compile: str) -> Any:
        rounds: Any = {"learner_steps": 0, "policy_steps": 20, "discriminator_steps": 3, "discriminator_batch_size": 16}
        settings: Any = {"batch_size": 16, "buffer_size": 1000, "learning_starts": 40, "compile": compile, **rounds}
        env = rlopt.make_env("rlopt/RandomTarget-v0", seed=3, backend="gymnasium")
        model = getattr(rlopt, name)("MlpPolicy", env, expert_of_random_target(), **DEVICE, **settings).learn(41)
        torch.manual_seed(1)
        for _ in range(3):
            rlopt.SAC.train(model, 8, 16)
            model._train_discriminator()
        return model

    captured, eager = trained("on"), trained("off")
    assert captured.update.step.mode == "cuda_graph" and eager.update is None
    assert captured.adversary._update.mode == "cuda_graph" and eager.adversary._update.mode == "eager"
    assert_same(captured, eager, 1e-3)
    theirs = dict(eager.adversary.discriminator.named_parameters())
    for name, tensor in captured.adversary.discriminator.named_parameters():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"lazy": False}, {"on_termination": "reset"}])
def test_deep_loop(settings: dict[str, Any]) -> None:
    def trained(compile: str) -> Any:
        small: Any = {"learning_starts": 40, "batch_size": 16, "buffer_size": 1000, "compile": compile}
        model = rlopt.DeepLOOP("MlpPolicy", gymnasium.make("Pendulum-v1"), **DEVICE, **small, **settings).learn(40)
        torch.manual_seed(1)
        model.train(gradient_steps=12, batch_size=16)
        return model

    captured, eager = trained("on"), trained("off")
    assert captured.update.step.mode == "cuda_graph" and eager.update is None
    assert_same(captured, eager, 1e-3)


@pytest.mark.parametrize("name", ["sqil", "iq_learn", "value_dice"])
def test_imitation(name: str) -> None:
    def trained(compile: str) -> Any:
        model = imitator(name, compile=compile, **DEVICE, learning_starts=40).learn(40)
        torch.manual_seed(1)
        model.train(gradient_steps=12, batch_size=16)
        return model

    captured, eager = trained("on"), trained("off")
    assert captured.update.step.mode == "cuda_graph" and eager.update is None
    assert_alike(captured, eager, 1e-3)


@pytest.mark.parametrize("compile", ["on", "off"])
def test_a_checkpoint_continues_on_cuda(compile: str) -> None:
    """What is restored is what was captured, and so are the steps after it, taken by graphs of before and new ones."""
    model, other = off_policy(compile), off_policy(compile, seed=9)
    restore_state(other, capture_state(model))
    assert_same(model, other, 0.0)
    assert torch.equal(model.replay_buffer.stored("rewards"), other.replay_buffer.stored("rewards"))
    for each in (model, other):
        torch.manual_seed(2)
        each.train(gradient_steps=10, batch_size=16)
    assert_same(model, other, 1e-6)


class TwiceTheLoss(rlopt.MDPO):
    def policy_loss(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        loss, info = policy_loss(*args, **kwargs)
        return 2 * loss, info


@pytest.mark.parametrize("cls", [rlopt.MDPO, TwiceTheLoss])
@pytest.mark.parametrize("options", [{}, {"value_batch_size": None}])
def test_on_policy(options: dict[str, Any], cls: type[rlopt.MDPO]) -> None:
    def trained(compile: str) -> Any:
        settings: Any = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "compile": compile, **options}
        return cls("MlpPolicy", vec_env(2), **DEVICE, **settings).learn(128)

    captured, eager = trained("on"), trained("off")
    assert {step.mode for step in captured.prepared.values()} == {"cuda_graph"} and not eager.prepared
    assert_same(captured, eager, 1e-3)


@pytest.mark.parametrize("options", [{}, {"target_kl": 1e-3, "learning_rate": 3e-3}, {"clip_range_vf": 0.1}])
def test_ppo(options: dict[str, Any]) -> None:
    def trained(compile: str) -> Any:
        settings: Any = {"n_steps": 32, "n_epochs": 3, "batch_size": 16, "compile": compile, **options}
        return rlopt.PPO("MlpPolicy", vec_env(2), **DEVICE, **settings).learn(128)

    captured, eager = trained("on"), trained("off")
    assert [step.mode for step in captured.prepared.values()] == ["cuda_graph"] and not eager.prepared
    assert captured._n_updates == eager._n_updates
    assert_same(captured, eager, 1e-3)


@pytest.mark.parametrize("options", [{}, {"use_sde": True}])
def test_on_policy_with_buttons_or_noise_that_depends_on_the_state(options: dict[str, Any]) -> None:
    def trained(compile: str) -> Any:
        env = vec_env(2) if options else DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
        settings: Any = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "compile": compile, **options}
        return rlopt.MDPO("MlpPolicy", env, **DEVICE, **settings).learn(128)

    captured, eager = trained("on"), trained("off")
    assert all(step.mode == "cuda_graph" and step.reason is None for step in captured.prepared.values())
    assert_same(captured, eager, 1e-3)


@pytest.mark.parametrize("name", ["BC", "TD3BC", "AWAC", "IQL", "CQL", "ReBRAC"])
def test_offline(name: str) -> None:
    def trained(compile: str) -> Any:
        settings: Any = {"batch_size": 32, "policy_kwargs": {"net_arch": [16, 12]}, "compile": compile}
        return getattr(rlopt, name)("MlpPolicy", pendulum(), **DEVICE, **settings).learn(14, log_interval=None)

    captured, eager = trained("on"), trained("off")
    assert (captured._step.mode, eager._step.mode) == ("cuda_graph", "eager")
    assert_same(captured, eager, 1e-3)
