"""Demonstrations in the replay of the off-policy learners: batches, exact resume, every way of taking a step."""

import dataclasses
from pathlib import Path
from typing import Any

import demonstrated
import numpy as np
import pytest
import torch
from demonstrated import TASK, assert_alike, demonstrations, target_demonstrations
from offline_data import recorded
from reach import SMALL, ReachGoal, as_function, needs_compiler, vec_env
from runs import leaves
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError, DataError
from rlopt.optim.lockstep import Lockstep

ROUNDS = {"learner_steps": 0, "policy_steps": 20, "discriminator_steps": 2, "discriminator_batch_size": 8}
LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sac": (rlopt.SAC, {"cloning_coef": 1.0, "cloning_steps": 200}),
    "off_policy_mdpo": (rlopt.OffPolicyMDPO, {"kl_coef": 0.1}),
    "ailboost": (rlopt.AILBoost, {"demo_fraction": 0.25, **ROUNDS}),
    "dac": (rlopt.DAC, {"demo_fraction": 0.5, "cloning_coef": 1.0, **ROUNDS}),
}


def make(name: str, env: Any = None, shown: Any = None, **changes: Any) -> Any:
    cls, settings = LEARNERS[name]
    shown = demonstrations() if shown is None else shown
    given = {"seed": 5, **SMALL, **settings, **changes}
    return cls("MlpPolicy", vec_env() if env is None else env, demonstrations=shown, **given)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_last_rows_of_a_batch_are_demonstrations_with_their_rewards(n_steps: int) -> None:
    shown = demonstrations()
    model = make("sac", shown=shown, n_steps=n_steps, gamma=0.9, demo_fraction=0.3).learn(40)
    batch = model.read_batch(model.draw(20))
    assert len(batch.rewards) == 20
    by_observation = {tuple(row): index for index, row in enumerate(shown.observations.tolist())}
    low, high = model.action_space.low, model.action_space.high
    ends = np.flatnonzero(shown.episode_ends)
    for row in range(20):
        start = by_observation.get(tuple(batch.observations[row].tolist()))
        assert (start is None) is (row < 14)
        if start is None:
            continue
        last = min(start + n_steps - 1, ends[ends >= start][0])
        count = last - start + 1
        summed = sum(0.9**k * shown.rewards[start + k] for k in range(count))
        scaled = 2 * (shown.actions[start] - low) / (high - low) - 1
        assert np.allclose(batch.actions[row], scaled, atol=1e-6)
        assert batch.rewards[row].item() == pytest.approx(summed, rel=1e-5)
        assert batch.discounts[row].item() == pytest.approx(0.9**count * shown.discounts[last], rel=1e-5)
        assert np.array_equal(batch.next_observations[row], shown.next_observations[last])


def test_without_demonstrations_nothing_is_mixed_in() -> None:
    plain, told = (
        rlopt.SAC("MlpPolicy", vec_env(), seed=1, **SMALL, **more).learn(40) for more in ({}, {"demo_fraction": 0.0})
    )
    assert_alike(plain, told, 0.0)
    assert plain.shown is None and make("sac", demo_fraction=0.0).shown is None
    for name in ("sqil", "iq_learn", "value_dice"):
        assert demonstrated.make(name).shown is None


def test_demonstrations_are_normalised_as_the_replay_is() -> None:
    model = make("sac", VecNormalize(vec_env())).learn(60)
    batch, env = model.read_batch(model.draw(16)), model.get_vec_normalize_env()
    seen = {tuple(row) for row in env.normalize_obs(demonstrations().observations).astype(np.float32).tolist()}
    assert all(tuple(row) in seen for row in batch.observations[8:].tolist())
    rewards = env.normalize_reward(demonstrations().rewards)
    assert all(np.isclose(rewards, reward).any() for reward in batch.rewards[8:, 0].tolist())


def test_dict_observations_are_mixed_in() -> None:
    data = recorded(ReachGoal(), "tests/ReachGoal", 40, lambda _, rng: rng.uniform(-1, 1, 2).astype(np.float32))
    model = rlopt.SAC("MultiInputPolicy", vec_env(env=ReachGoal), demonstrations=Demonstrations.from_dataset(data),
                      cloning_coef=1.0, seed=0, **SMALL).learn(30)  # fmt: skip
    batch = model.read_batch(model.draw(6))
    shown = {tuple(row) for row in data.observations["observation"].tolist()}  # type: ignore[index]
    assert [tuple(row) in shown for row in batch.observations["observation"].tolist()] == [False] * 3 + [True] * 3


def test_an_adversary_rewards_the_demonstrations_of_a_batch() -> None:
    model = make("ailboost", absorbing=False).learn(60)
    batch = model.read_batch(model.draw(16))
    shown = model.expert.gather(torch.arange(len(model.expert)))
    wanted = model.adversary.reward(shown)[:, 0].tolist()
    assert all(np.isclose(wanted, reward, atol=1e-6).any() for reward in batch.rewards[12:, 0].tolist())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    def model(stop: int, **changes: Any) -> Any:
        made = make(name, VecMonitor(rlopt.make_env(TASK, n_envs=2, seed=1)), target_demonstrations(), **changes)
        made.boundary_hook = lambda learner: learner.num_timesteps < stop
        return made

    whole = model(90).learn(1000)
    path = save_checkpoint(model(46).learn(1000), tmp_path)
    torch.rand(3), np.random.rand(3)
    again = learn_from(model(90), read_checkpoint(path).trees, 1000)
    assert leaves(dict(capture_state(whole))) == leaves(dict(capture_state(again)))
    with pytest.raises(ConfigError, match="other demonstrations"):
        learn_from(model(90, n_demonstrations=1), read_checkpoint(path).trees, 1000)


@pytest.mark.parametrize("name", ["sac", "dac"])
def test_the_function_of_tensors_is_the_step_also_of_stacked_seeds(name: str) -> None:
    def job(seed: int) -> Any:
        return lambda: as_function(make(name, seed=seed, compile="off")).learn(40)

    together = Lockstep([job(seed) for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        assert_alike(model, make(name, seed=seed, compile="off").learn(40))


@needs_compiler
def test_the_compiled_step_is_the_step() -> None:
    compiled, plain = (make("sac", compile=choice).learn(40) for choice in ("on", "off"))
    assert compiled.update.step.mode == "compiled" and plain.update is None
    assert_alike(compiled, plain)


def test_other_demonstrations_are_drawn_from_at_once() -> None:
    """Also by a step that was prepared with the former ones."""
    model = as_function(make("sac")).learn(30)
    other = demonstrations(seed=3)
    model.set_demonstrations(other)
    model.train(1, 16)
    assert model.update._read[1][0] is model.shown and len(model.shown.observations) == len(other)


def test_what_cannot_be_drawn_from_is_refused() -> None:
    shown = demonstrations()
    without = dataclasses.replace(shown, metadata=dataclasses.replace(shown.metadata, has_rewards=False))
    with pytest.raises(DataError, match=r"have no rewards: give demo_fraction=0 .* rlopt\.DAC"):
        make("sac", shown=without)
    assert make("dac", shown=without).shown is not None
    with pytest.raises(DataError, match="n_steps > 1 needs whole episodes"):
        make("sac", shown=shown.subsample(2), n_steps=3)
    with pytest.raises(ConfigError, match="give relabel=True, or demo_fraction=0"):
        make("dac", relabel=False)
    with pytest.raises(ConfigError, match="cloning_coef needs demonstrations"):
        rlopt.SAC("MlpPolicy", vec_env(), cloning_coef=1.0, **SMALL).learn(10)
