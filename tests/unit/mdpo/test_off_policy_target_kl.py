"""The weight of the proximity term of off-policy MDPO that follows a target, whatever the scale of the rewards."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reach import as_function, assert_same, make, needs_compiler

import rlopt
from rlopt.agents.mdpo import off_policy_losses as losses
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import ConfigError
from rlopt.optim.lockstep import Lockstep

AUTO = {"kl_coef": "auto_0.5", "target_kl": 0.1, "old_policy_period": 7, "compile": "off"}


def trained(model: Any, gradient_steps: int) -> Any:
    torch.manual_seed(1)
    np.random.seed(1)
    model.train(gradient_steps, batch_size=16)
    return model


def test_the_weight_rises_above_the_target_and_falls_below_it() -> None:
    before, rate = torch.tensor([math.log(0.5)]), losses.KL_COEF_RATE
    for kl, share in ((2.0 * math.e, 1.0), (200.0, 1.0), (2.0, 0.0), (2.0 / math.sqrt(math.e), -0.5), (0.0, -1.0)):
        after = losses.moved_log_kl_coef(before, torch.tensor(kl), target_kl=2.0)
        torch.testing.assert_close(after, before + rate * share, rtol=0, atol=1e-6)
    low, high = losses.LOG_KL_COEF_RANGE
    assert losses.moved_log_kl_coef(torch.tensor([low]), torch.tensor(0.0), target_kl=1.0).item() == pytest.approx(low)
    assert losses.moved_log_kl_coef(torch.tensor([high]), torch.tensor(9.0), target_kl=1.0).item() == pytest.approx(
        high
    )


def test_the_unit_is_the_deviation_of_q() -> None:
    q_values = torch.tensor([[1.0], [3.0], [5.0]])
    assert losses.q_scale(q_values).item() == pytest.approx(math.sqrt(8 / 3))
    assert losses.q_scale(4 * q_values + 100).item() == pytest.approx(4 * math.sqrt(8 / 3))
    assert losses.q_scale(q_values[:1]).item() == 0


@pytest.mark.parametrize("scale", [2.0**-3, 2.0**10])
def test_rewards_times_a_power_of_two_give_the_same_policy_update(scale: float) -> None:
    """Where Q and the entropy's weight are in proportion to the rewards, as the fixed point of their learning is."""

    def updated(scale: float, **options: Any) -> OffPolicyMDPO:
        settings = {**AUTO, "ent_coef": 0.125 * scale, "learning_rate": 1e-3, "learning_starts": 60, **options}
        model = make(**settings).learn(60)
        with torch.no_grad():
            model.old_actor.mu.bias.add_(0.5)
            for network in model.critic.q_networks:
                network[-1].weight.mul_(scale)
                network[-1].bias.mul_(scale)
        # The critics stay as they are: it is the actor's step that is looked at.
        model._update_learning_rate = lambda _: None
        model.critic.optimizer.param_groups[0]["lr"] = 0.0
        return trained(model, 5)

    plain, scaled = updated(1.0), updated(scale)
    assert plain.log_kl_coef is not None and scaled.log_kl_coef is not None
    torch.testing.assert_close(scaled.log_kl_coef, plain.log_kl_coef, rtol=1e-5, atol=1e-6)
    assert plain.log_kl_coef.item() != pytest.approx(math.log(0.5), abs=1e-3)
    for ours, theirs in zip(scaled.actor.parameters(), plain.actor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    # A weight in units of reward is not so.
    first, second = updated(1.0, kl_coef=0.5), updated(scale, kl_coef=0.5)
    assert (first.actor.mu.weight - second.actor.mu.weight).abs().max() > 5e-4


def test_a_far_policy_is_drawn_back_until_the_target_holds() -> None:
    """The coefficient falls towards SAC while the policy stays near, and rises while it is far."""
    near = trained(make(learning_starts=60, **{**AUTO, "target_kl": 1e6}).learn(60), 40)
    far = trained(make(learning_starts=60, **{**AUTO, "target_kl": 1e-9, "old_policy_period": 10**6}).learn(60), 40)
    steps = 40 * losses.KL_COEF_RATE
    assert near.log_kl_coef.item() == pytest.approx(math.log(0.5) - steps, abs=1e-5)
    # Of 40 steps the first found no divergence at all.
    assert far.log_kl_coef.item() == pytest.approx(math.log(0.5) + steps * 38 / 40, abs=1e-3)


def test_every_way_of_taking_the_step_moves_the_weight_alike() -> None:
    def job(seed: int, function: bool) -> Callable[[], OffPolicyMDPO]:
        def run() -> OffPolicyMDPO:
            model = make(seed=seed, **AUTO)
            return (as_function(model) if function else model).learn(60)

        return run

    alone = [job(seed, False)() for seed in (1, 2)]
    for found in ([job(1, True)()], Lockstep([job(seed, True) for seed in (1, 2)]).run()):
        for wanted, model in zip(alone, found, strict=False):
            assert_same(model, wanted, 1e-3)
            torch.testing.assert_close(model.log_kl_coef, wanted.log_kl_coef, rtol=1e-4, atol=1e-5)
    assert alone[0].logger.name_to_value["train/kl_coef"] == pytest.approx(alone[0].log_kl_coef.exp().item(), rel=1e-2)


@needs_compiler
def test_the_step_is_traced_whole() -> None:
    plain, traced = (make(learning_starts=60, **AUTO).learn(60) for _ in range(2))
    traced.compile = "on"
    for model in (plain, traced):
        trained(model, 5)
    assert traced.update is not None and traced.update.step.mode == "compiled"
    assert_same(plain, traced, 1e-3)
    torch.testing.assert_close(plain.log_kl_coef, traced.log_kl_coef)


def test_the_weight_is_saved_and_may_be_begun_anew(tmp_path: Path) -> None:
    model = make(**AUTO).learn(50)
    model.save(tmp_path / "model.zip")
    checkpoint = save_checkpoint(model, tmp_path)
    for loaded in (OffPolicyMDPO.load(tmp_path / "model.zip"), rlopt.load(checkpoint, device="cpu")):
        assert loaded.kl_coef == "auto_0.5" and torch.equal(loaded.log_kl_coef, model.log_kl_coef)
    anew = OffPolicyMDPO.load(tmp_path / "model.zip", kl_coef="auto_2")
    assert anew.log_kl_coef.item() == pytest.approx(math.log(2))
    fixed = OffPolicyMDPO.load(tmp_path / "model.zip", kl_coef=0.3)
    assert fixed.log_kl_coef is None and fixed.scalars()["kl_coef"] == 0.3
    fixed.kl_coef = "auto"
    assert fixed.networks()["kl_coef"].tensors["log_kl_coef"].item() == 0.0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("kl_coef", "auto_0"), ("kl_coef", "auto_-1"), ("kl_coef", "self"), ("target_kl", 0.0), ("target_kl", math.nan)],
)
def test_wrong_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        make(**{setting: value})
