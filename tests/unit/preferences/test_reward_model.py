"""Reward models: what preferences can tell of a reward, and what they cannot."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlopt.errors import CheckpointError, NonFiniteError, SpaceError
from rlopt.feedback.oracles import ReturnOracle
from rlopt.preferences import Fragments, Preferences, RewardEnsemble

OBSERVATIONS, ACTIONS = spaces.Box(-2, 2, (3,)), spaces.Box(-1, 1, (1,))
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.5])
FIT: dict[str, Any] = {"steps": 300, "batch_size": 64, "learning_rate": 0.02, "weight_decay": 0.0}


def fragments(count: int, length: int, rng: np.random.Generator, short: bool = False) -> Fragments:
    observations = rng.normal(size=(count, length, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, length, 1)).astype(np.float32)
    lengths = rng.integers(1, length + 1, count) if short else np.full(count, length)
    rewards = (np.concatenate([observations, actions], axis=2) @ WEIGHTS).astype(np.float32) + (2.0 if short else 0.0)
    unknown = np.full(count, -1)
    return Fragments(observations, actions, lengths, rewards, np.zeros((count, 3), np.float32), unknown, unknown)


def answered(count: int, m: int, rng: np.random.Generator, short: bool = False) -> Preferences:
    shown = fragments(count * m, 5, rng, short)
    questions = np.arange(count * m).reshape(count, m)
    answers = [ReturnOracle().rank(shown.returns[row], m, rng) for row in questions]
    return Preferences.of(shown, questions.tolist(), answers)


def model(net_arch: tuple[int, ...] = (), ensemble: int = 2) -> RewardEnsemble:
    return RewardEnsemble(OBSERVATIONS, ACTIONS, ensemble=ensemble, net_arch=net_arch, rng=np.random.default_rng(1))


@pytest.mark.parametrize("m", [2, 4])
def test_a_linear_reward_is_recovered_up_to_scale(m: int) -> None:
    rng = np.random.default_rng(0)
    made = model()
    log = made.fit(answered(300, m, rng), rng=rng, **FIT)
    assert log["agreement"] > 0.95
    fresh = fragments(200, 1, rng)
    found = made.rewards(torch.from_numpy(fresh.observations[:, 0]), made.encoded(fresh.actions[:, 0])).numpy()
    assert np.corrcoef(found, fresh.rewards[:, 0])[0, 1] > 0.98


def test_rewards_have_mean_0_and_deviation_1_over_the_fragments_where_nothing_ends() -> None:
    rng = np.random.default_rng(0)
    shown = answered(50, 2, rng)
    made = model((8,))
    made.fit(shown, rng=rng, **{**FIT, "steps": 20})
    part = shown.fragments
    rewards = made.rewards(torch.from_numpy(part.observations).flatten(0, 1), made.encoded(part.actions.reshape(-1, 1)))
    assert rewards.mean().item() == pytest.approx(0, abs=1e-5) and rewards.std().item() == pytest.approx(1, abs=1e-2)


def test_true_ends_tell_the_zero_of_the_reward() -> None:
    """Fragments that end sooner earn less where rewards are positive: only a model with a zero can say so."""
    rng = np.random.default_rng(0)
    made = model()
    made.fit(answered(400, 2, rng, short=True), rng=rng, **{**FIT, "steps": 500})
    fresh = fragments(500, 1, rng)
    found = made.rewards(torch.from_numpy(fresh.observations[:, 0]), made.encoded(fresh.actions[:, 0])).numpy()
    true = fresh.rewards[:, 0] + 2.0
    assert made.shift == 0 and found.mean() / found.std() == pytest.approx(true.mean() / true.std(), rel=0.25)


def test_before_a_fit_rewards_are_0_and_a_pass_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    made, shown = model((8,)), answered(20, 2, rng)
    rows = torch.randn(50, 3), torch.randn(50, 1)
    assert not made.rewards(*rows).any()
    made.fit(shown, rng=rng, **{**FIT, "steps": 5})
    whole, returns = made.rewards(*rows), made.member_returns(shown.fragments)
    monkeypatch.setattr("rlopt.preferences.reward_model._ROWS", 7)
    assert torch.allclose(made.rewards(*rows), whole, atol=1e-6)
    np.testing.assert_allclose(made.member_returns(shown.fragments), returns, atol=1e-5)


def test_members_differ_and_a_restored_model_is_the_same() -> None:
    rng = np.random.default_rng(0)
    made, shown = model((8,), 3), answered(20, 2, rng)
    made.fit(shown, rng=rng, **{**FIT, "steps": 5})
    assert made.member_returns(shown.fragments).std(axis=0).min() > 0
    other = RewardEnsemble(OBSERVATIONS, ACTIONS, ensemble=3, net_arch=(8,), rng=np.random.default_rng(9))
    other.restore(made.tree())
    rows = torch.randn(5, 3), torch.randn(5, 1)
    assert torch.equal(other.rewards(*rows), made.rewards(*rows))
    with pytest.raises(CheckpointError, match="other networks"):
        model((4,), 3).restore(made.tree())
    with pytest.raises(CheckpointError, match="malformed"):
        other.restore(made.tree() | {"scale": 0.0})


def test_a_fit_that_diverges_leaves_the_model_as_it_was() -> None:
    rng = np.random.default_rng(0)
    made, shown = model((8,)), answered(20, 2, rng)
    before = made.tree()["parameters"]
    with pytest.raises(NonFiniteError, match="reward_learning_rate"):
        made.fit(shown, rng=rng, **{**FIT, "learning_rate": 1e30})
    assert all(torch.equal(a, b) for a, b in zip(before, made.tree()["parameters"], strict=True))


@pytest.mark.parametrize(
    "pair",
    [
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), ACTIONS),
        (OBSERVATIONS, spaces.Box(-np.inf, np.inf, (1,))),
        (OBSERVATIONS, spaces.MultiBinary(2)),
    ],
)
def test_spaces_without_vectors_are_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(SpaceError):
        RewardEnsemble(*pair, ensemble=1, net_arch=(), rng=np.random.default_rng(0))


def test_discrete_actions_are_one_hot_from_their_start() -> None:
    made = RewardEnsemble(
        OBSERVATIONS, spaces.Discrete(3, start=5), ensemble=1, net_arch=(), rng=np.random.default_rng(0)
    )
    assert made.encoded(np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
