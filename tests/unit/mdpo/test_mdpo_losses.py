"""Losses against values derived by hand."""

import math

import pytest
import torch

from rlopt.agents.mdpo.losses import annealed_step_size, policy_loss, value_loss


def test_policy_loss_by_hand() -> None:
    # Ratios 2 and 1/2, advantages 1 and -1: mean(r A) = (2 - 0.5) / 2 = 0.75. Mean divergence 0.2, step size 0.5:
    # + 0.4. Mean entropy 3, weight 0.1: - 0.3. Loss = -0.75 + 0.4 - 0.3 = -0.65.
    loss, info = policy_loss(
        torch.log(torch.tensor([2.0, 0.5])),
        torch.zeros(2),
        torch.tensor([1.0, -1.0]),
        torch.tensor([0.1, 0.3]),
        torch.tensor([2.0, 4.0]),
        step_size=0.5,
        ent_coef=0.1,
    )
    assert loss.item() == pytest.approx(-0.65)
    assert info["divergence"].item() == pytest.approx(0.2)
    assert not info["policy_loss"].requires_grad


def test_entropy_bonus_rewards_entropy() -> None:
    """The released code has the opposite sign: its entropy term enters the reward as a penalty."""
    zeros = torch.zeros(3)
    low, _ = policy_loss(zeros, zeros, zeros, zeros, zeros + 1.0, step_size=1.0, ent_coef=0.5)
    high, _ = policy_loss(zeros, zeros, zeros, zeros, zeros + 2.0, step_size=1.0, ent_coef=0.5)
    assert high.item() == pytest.approx(low.item() - 0.5)


def test_shapes_that_would_broadcast_are_refused() -> None:
    column, row = torch.zeros(4, 1), torch.zeros(4)
    with pytest.raises(ValueError, match="one shape"):
        policy_loss(column, row, row, row, row, step_size=1.0, ent_coef=0.0)
    with pytest.raises(ValueError, match="one shape"):
        value_loss(column, row, row, clip_range_vf=None)


def test_value_loss_by_hand() -> None:
    values, returns, old = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]), torch.tensor([0.9, 1.0])
    loss, _ = value_loss(values, returns, old, clip_range_vf=None)
    assert loss.item() == pytest.approx((1 + 9) / 2)
    # 1.0 is within 0.2 of 0.9; 3.0 is clipped to 1.2.
    loss, _ = value_loss(values, returns, old, clip_range_vf=0.2)
    assert loss.item() == pytest.approx((1 + 1.44) / 2)


def test_step_size_runs_from_one_to_one_over_k() -> None:
    n_updates = 5
    progress = [1 - (k + 1) / n_updates for k in range(n_updates)]
    sizes = [annealed_step_size(1.0, progress_remaining=p, rollout_fraction=1 / n_updates) for p in progress]
    assert sizes == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    past_the_end = annealed_step_size(1.0, progress_remaining=-0.5, rollout_fraction=1 / n_updates)
    assert past_the_end == pytest.approx(0.2)
    assert math.isfinite(1 / past_the_end)
