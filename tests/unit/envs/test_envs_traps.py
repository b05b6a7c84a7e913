"""Where simulators and EnvPool do other than one expects, and what the adapters make of it."""

import numpy as np
import pytest

import rlopt
from rlopt.errors import ConfigError, NonFiniteError

pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'rlopt[fast]'")

BACKENDS = ("gymnasium", "envpool")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["dm_control/cheetah-run", "dm_control/walker-walk", "HalfCheetah-v5"])
def test_action_repeat_is_that_many_steps(env_id, backend):
    """EnvPool's frame_skip replaces the physics substeps and drops rewards; repeating must be the same as two steps."""
    plain = rlopt.make_env(env_id, 2, seed=3, backend=backend, max_episode_steps=5)
    repeated = rlopt.make_env(env_id, 2, seed=3, backend=backend, max_episode_steps=5, action_repeat=2)
    np.testing.assert_array_equal(plain.reset(), repeated.reset())
    rng = np.random.default_rng(0)
    for _ in range(3):
        last = False
        for step in range(3):
            action = rng.uniform(-1.0, 1.0, (2, *plain.action_space.shape)).astype(np.float32)
            total = np.zeros(2)
            for _ in range(1 if step == 2 else 2):
                observation, reward, dones, infos = plain.step(action)
                total += reward
            other, other_reward, other_dones, other_infos = repeated.step(action)
            np.testing.assert_array_equal(observation, other)
            np.testing.assert_allclose(total, other_reward, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(dones, other_dones)
            last = bool(dones.all())
            if last:
                np.testing.assert_array_equal(infos[0]["terminal_observation"], other_infos[0]["terminal_observation"])
        assert last


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Humanoid-v5"])
def test_control_cost_of_actions_beyond_the_bounds(env_id, backend):
    """The physics clamps controls, the cost does not: three times the bound must cost what the bound costs."""
    first, second = (rlopt.make_env(env_id, 2, seed=1, backend=backend) for _ in range(2))
    first.reset()
    second.reset()
    bound = np.stack([first.action_space.high, first.action_space.low])
    for _ in range(3):
        at_bound, beyond = first.step(bound), second.step(3 * bound)
        np.testing.assert_array_equal(at_bound[0], beyond[0])
        np.testing.assert_array_equal(at_bound[1], beyond[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "dm_control/cheetah-run"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_no_numbers(env_id, backend, value, tmp_path, monkeypatch):
    """MuJoCo resets itself silently on NaN controls and writes a log into the working directory."""
    monkeypatch.chdir(tmp_path)
    env = rlopt.make_env(env_id, 4, backend=backend)
    env.reset()
    actions = np.zeros((4, 6), np.float32)
    actions[2, 1] = value
    with pytest.raises(NonFiniteError, match="environment 2 "):
        env.step(actions)
    assert np.isfinite(env.step(np.zeros((4, 6), np.float32))[0]).all()
    env.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_episodes_follow_each_other_without_a_reset_step(backend):
    """With EnvPool's own autoreset every episode would be one step longer, with a reward that belongs to the last."""
    env = rlopt.make_env("dm_control/cheetah-run", 2, seed=2, backend=backend, max_episode_steps=7)
    env.reset()
    push = np.full((2, 6), 0.7, np.float32)
    ends, rewards, starts = [], [], []
    for step in range(1, 22):
        observation, reward, dones, _ = env.step(push if step <= 7 else np.zeros_like(push))
        rewards.append(reward[0])
        if dones.any():
            assert dones.all()
            ends.append(step)
            starts.append(observation)
    assert ends == [7, 14, 21]
    assert not np.array_equal(starts[0], starts[1])
    # At rest after the reset, the cheetah moves backwards or not at all: the speed reward starts anew near 0.
    assert rewards[7] != rewards[6]


def test_raw_pool_has_the_traps():
    """The traps are real: if EnvPool mends one, this says so."""
    env = rlopt.make_env("dm_control/cheetah-run", 1, seed=2, backend="envpool", max_episode_steps=3)
    env.reset()
    push = np.full((1, 6), 0.7, np.float32)
    for _ in range(4):
        _, last_reward, _, truncated, _ = env.pool.step(push)
    assert truncated.all(), "the pool's own limit lies one step behind the adapter's"
    _, reward, terminated, truncated, info = env.pool.step(push)
    assert info["elapsed_step"][0] == 0 and not terminated.any() and not truncated.any()
    assert reward[0] == last_reward[0]


def test_union_of_keys_is_not_the_observation():
    pool = rlopt.make_env("dm_control/quadruped-walk", 4, seed=2, backend="envpool")
    reference = rlopt.make_env("dm_control/quadruped-walk", 1, seed=2, backend="gymnasium")
    assert pool.observation_space == reference.observation_space
    rows = pool.reset()
    raw = pool.pool.reset()[0]
    assert sum(np.prod(value.shape[1:]) for value in raw.values()) > rows.shape[1] == 78


def test_point_maze_relabelling_matches_gymnasium_robotics():
    pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    rng = np.random.default_rng(0)
    achieved, desired = rng.uniform(-1.0, 1.0, (2, 50, 2))
    for env_id in ("PointMaze_UMaze-v3", "PointMaze_UMazeDense-v3"):
        rewards = [
            rlopt.make_env(env_id, 1, backend=backend).env_method("compute_reward", achieved, desired, {})[0]
            for backend in BACKENDS
        ]
        np.testing.assert_allclose(rewards[0], rewards[1], rtol=1e-12)
    with pytest.raises(ConfigError, match="gymnasium"):
        rlopt.make_env("HalfCheetah-v5", 4).env_method("compute_reward", achieved, desired, {})


def test_wrong_action_shape():
    from rlopt.errors import SpaceError

    env = rlopt.make_env("HalfCheetah-v5", 4)
    env.reset()
    with pytest.raises(SpaceError, match=r"\(4, 5\)"):
        env.step(np.zeros((4, 5), np.float32))
