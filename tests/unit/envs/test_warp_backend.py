"""The warp backend on the CPU, against dm_control and against itself: parity, time limits, resets by mask, resume."""

import numpy as np
import pytest
import scipy.stats
import torch
from dm_control import suite

from rlopt import make_env
from rlopt.envs.dmc import flatten
from rlopt.envs.suite.task import Draw
from rlopt.errors import StateUnavailableError

pytest.importorskip("mujoco_warp", reason="needs the extra warp; its kernels compile for minutes the first time")


def warp_env(task: str = "cartpole-swingup", **settings):
    return make_env(f"dm_control/{task}", backend="warp", device="cpu", **settings)


def actions_for(env, steps: int, seed: int = 0) -> np.ndarray:
    space = env.action_space
    return np.random.RandomState(seed).uniform(space.low, space.high, (steps, env.num_envs, *space.shape)).astype("f")


@pytest.mark.parametrize("task", ["cartpole-swingup", "walker-walk"])
def test_follows_dm_control(task):
    env = warp_env(task, n_envs=2)
    env.reset()
    originals = [suite.load(*task.split("-"), task_kwargs={"random": seed}) for seed in range(2)]
    for original in originals:
        original.reset()
    for name in ("qpos", "qvel", "act", "qacc_warmstart"):
        rows = np.stack([getattr(original.physics.data, name) for original in originals])
        env.physics.kept[name].copy_(torch.from_numpy(rows))
    env.physics.refresh()
    for actions in actions_for(env, 25):
        observations, rewards, _, _ = env.step(actions)
        expected = [original.step(action) for original, action in zip(originals, actions, strict=True)]
        np.testing.assert_allclose(observations, [flatten(step.observation) for step in expected], atol=2e-3)
        np.testing.assert_allclose(rewards, [step.reward for step in expected], atol=1e-4)


def test_arrays_are_the_simulators_own():
    env = warp_env(n_envs=2)
    env.reset()
    before = env.physics.worlds.qpos.clone()
    env.step(actions_for(env, 1)[0])
    assert env.physics.worlds.qpos.data_ptr() == env.physics._data.qpos.ptr
    assert not torch.equal(env.physics.worlds.qpos, before)


@pytest.mark.parametrize("task", ["cartpole-swingup", "cheetah-run"])
def test_a_captured_step_is_the_step(task):
    """With several physics steps, and with one between settled starts."""
    captured, eager = (warp_env(task, n_envs=3, max_episode_steps=6) for _ in range(2))
    eager.physics._advance = eager.physics._take
    np.testing.assert_array_equal(captured.reset(), eager.reset())
    for actions in actions_for(captured, 8):
        for ours, theirs in zip(captured.step(actions)[:2], eager.step(actions)[:2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert captured.physics._graphs and not eager.physics._graphs


def test_a_time_limit_cuts_and_begins_anew():
    """Five steps of the environment, two an action: the third action is taken once."""
    env = warp_env(n_envs=2, max_episode_steps=5, action_repeat=2)
    single = warp_env(n_envs=2, max_episode_steps=100)
    np.testing.assert_array_equal(env.reset(), single.reset())
    first, second, third = actions_for(env, 3)
    expected = {}
    for index, repeats in enumerate((2, 2, 1)):
        outcomes = [single.step((first, second, third)[index]) for _ in range(repeats)]
        expected[index] = outcomes[-1][0], sum(outcome[1] for outcome in outcomes)
    for index, actions in enumerate((first, second)):
        observations, rewards, dones, infos = env.step(actions)
        np.testing.assert_array_equal(observations, expected[index][0])
        np.testing.assert_allclose(rewards, expected[index][1], rtol=1e-6)
        assert not dones.any() and not infos[0]["TimeLimit.truncated"] and "terminal_observation" not in infos[0]
    observations, rewards, dones, infos = env.step(third)
    assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
    np.testing.assert_array_equal(np.stack([info["terminal_observation"] for info in infos]), expected[2][0])
    np.testing.assert_allclose(rewards, expected[2][1], rtol=1e-6)
    # The pole hangs again, and both worlds differ.
    assert (observations[:, 1] < -0.99).all() and not np.array_equal(observations[0], observations[1])
    assert not env.step(first)[2].any()


@pytest.mark.parametrize("task", ["cartpole-balance", "hopper-hop", "ball_in_cup-catch"])
def test_a_reset_by_mask_leaves_the_others_where_they_are(task):
    env, other = (warp_env(task, n_envs=3, seed=4) for _ in range(2))
    first = env.reset()
    np.testing.assert_array_equal(first, other.reset())
    steps = actions_for(env, 8)
    for actions in steps[:4]:
        env.step(actions), other.step(actions)
    before = env._observe().clone()
    env.physics.start(torch.tensor([False, True, False]), Draw(torch.Generator().manual_seed(1), 3))
    after = env._observe()
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])
    for actions in steps[4:]:
        seen, expected = env.step(actions)[0], other.step(actions)[0]
        np.testing.assert_array_equal(seen[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("task", ["cartpole-swingup", "hopper-hop"])
def test_resume_is_exact(task):
    env = warp_env(task, n_envs=2, max_episode_steps=6)
    env.reset()
    steps = actions_for(env, 12)
    for actions in steps[:4]:
        env.step(actions)
    state = env.get_state()
    expected = [env.step(actions) for actions in steps[4:]]  # over the end of an episode
    resumed = warp_env(task, n_envs=2, max_episode_steps=6, seed=9)
    resumed.set_state(state)
    for actions, outcome in zip(steps[4:], expected, strict=True):
        for got, wanted in zip(resumed.step(actions)[:3], outcome[:3], strict=True):
            np.testing.assert_array_equal(got, wanted)
    state["worlds"]["qpos"] = state["worlds"]["qpos"] + 1
    with pytest.raises(StateUnavailableError, match="observed otherwise"):
        resumed.set_state(state)


def test_a_settled_start_has_dm_controls_distribution():
    env, original = warp_env("cheetah-run", n_envs=128), suite.load("cheetah", "run", task_kwargs={"random": 2})
    ours = env.reset()
    theirs = np.stack([flatten(original.reset().observation) for _ in range(128)])
    for column in range(8):  # the velocities of a settled model are near 0, and which way they go is rounding
        assert scipy.stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4, f"coordinate {column}"
    np.testing.assert_allclose(ours[:, 8:], 0, atol=0.6)


def test_the_seed_decides():
    first, second, third = (warp_env(n_envs=2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.reset(), second.reset()) and not np.array_equal(first._observe(), third.reset())
    assert not np.array_equal(first.reset(), second._observe().numpy())
    first.seed(1)
    np.testing.assert_array_equal(first.reset(), second._observe().numpy())
