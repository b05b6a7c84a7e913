"""Vector environments of Gymnasium and EnvPool: returns, ends and last observations, all known by hand."""

import functools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from counting import Numbers
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import rlopt
from rlopt import MDPO, SAC
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.envs.backends.vector_env import VectorEnvAdapter, as_vec_env
from rlopt.errors import ConfigError

TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu", "seed": 0}
MODES = list(AutoresetMode)
COPIES = (functools.partial(Numbers, 2), functools.partial(Numbers, 3, cut=True))
"""Episodes of two steps that end, and of three that are cut off."""


def vector_env(mode: AutoresetMode, kind: Any = SyncVectorEnv, **options: Any) -> Any:
    return kind(COPIES, autoreset_mode=mode, **options)


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_autoreset_gives_the_same_steps(mode: AutoresetMode, kind: Any) -> None:
    env = VectorEnvAdapter(vector_env(mode, kind))
    assert env.reset().tolist() == [[0], [0]]
    expected = [  # observations, rewards, dones, and for each end: last observation, cut off
        ([1, 1], [1, 1], [False, False], {}),
        ([10, 2], [2, 2], [True, False], {0: (2, False)}),
        ([11, 10], [11, 3], [False, True], {1: (3, True)}),
        ([20, 11], [12, 11], [True, False], {0: (12, False)}),
        ([21, 12], [21, 12], [False, False], {}),
        ([30, 20], [22, 13], [True, True], {0: (22, False), 1: (13, True)}),
        ([31, 21], [31, 21], [False, False], {}),
    ]
    for observations, rewards, dones, ends in expected:
        seen, got, done, infos = env.step(np.zeros((2, 1), np.float32))
        assert seen.flatten().tolist() == observations and got.tolist() == rewards and done.tolist() == dones
        for index, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is (index in ends and ends[index][1])
            assert ("terminal_observation" in info) == ("last" in info) == (index in ends)
            if index in ends:
                assert info["terminal_observation"].tolist() == [ends[index][0]] and info["last"] == 2 + index
    assert env.get_attr("length") == [2, 3] and env.get_attr("length", [1]) == [3]
    env.close()


@pytest.mark.parametrize("mode", MODES)
def test_replay_never_bridges_two_episodes(mode: AutoresetMode) -> None:
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector_env(mode))
    model = SAC("MlpPolicy", env, learning_starts=100, buffer_size=100, gamma=0.5, **TINY)
    model.learn(12)
    batch = model.replay_buffer.gather(torch.arange(12))  # type: ignore[union-attr]
    first, second = slice(0, 12, 2), slice(1, 12, 2)  # the rows of each copy
    assert batch.observations[first].flatten().tolist() == [0, 1, 10, 11, 20, 21]
    assert batch.next_observations[first].flatten().tolist() == [1, 2, 11, 12, 21, 22]
    assert batch.rewards[first].flatten().tolist() == [1, 2, 11, 12, 21, 22]
    assert batch.dones[first].flatten().tolist() == [0, 1, 0, 1, 0, 1]
    assert batch.observations[second].flatten().tolist() == [0, 1, 2, 10, 11, 12]
    assert batch.next_observations[second].flatten().tolist() == [1, 2, 3, 11, 12, 13]
    assert batch.dones[second].flatten().tolist() == [0] * 6  # cut off, not ended
    returns = sorted((episode["r"], episode["l"]) for episode in model.ep_info_buffer or ())
    assert returns == [(3, 2), (6, 3), (23, 2), (36, 3), (43, 2)]


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_starts_episodes_where_they_start(mode: AutoresetMode) -> None:
    model = MDPO("MlpPolicy", vector_env(mode), n_steps=4, batch_size=None, gamma=0.0, **TINY).learn(8)
    buffer = model.rollout_buffer
    assert buffer.observations[:, :, 0].T.tolist() == [[0, 1, 10, 11], [0, 1, 2, 10]]
    assert buffer.episode_starts.T.tolist() == [[1, 0, 1, 0], [1, 0, 0, 1]]
    assert buffer.rewards.T.tolist() == [[1, 2, 11, 12], [1, 2, 3, 11]]


def test_vector_environments_are_taken_wherever_an_environment_is(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", vector_env(AutoresetMode.NEXT_STEP), learning_starts=100, buffer_size=100, **TINY)
    model.learn(4).set_env(vector_env(AutoresetMode.SAME_STEP))
    model.learn(4, reset_num_timesteps=False).save(tmp_path / "model.zip")
    loaded = SAC.load(tmp_path / "model.zip", env=vector_env(AutoresetMode.DISABLED), device="cpu")
    loaded.learn(4, reset_num_timesteps=False)
    assert loaded.num_timesteps == 12 and loaded.n_envs == 2
    save_checkpoint(model, tmp_path / "checkpoints")
    assert rlopt.load(tmp_path / "checkpoints", env=vector_env(AutoresetMode.NEXT_STEP)).learn(4).num_timesteps == 4
    single = SyncVectorEnv([lambda: gymnasium.make("FrozenLake-v1", is_slippery=False)])
    assert as_vec_env(single).get_attr("unwrapped")[0].desc.shape == (4, 4)


def test_seeds_reach_the_copies() -> None:
    envs = [as_vec_env(gymnasium.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")) for _ in range(2)]
    for env in envs:
        env.seed(3)
    one, other = (env.reset() for env in envs)
    alone = gymnasium.make("Pendulum-v1").reset(seed=4)[0]
    assert np.array_equal(one, other) and np.array_equal(one[1], alone)


def test_what_resets_in_the_next_step_alone_is_refused_with_the_cure() -> None:
    whole = gymnasium.make_vec("CartPole-v1", num_envs=2)  # steps all its copies as one array
    with pytest.raises(ConfigError, match=r"CartPoleVectorEnv resets in the step after .* vectorization_mode='sync'"):
        MDPO("MlpPolicy", whole)
    forgetful = vector_env(AutoresetMode.NEXT_STEP, AsyncVectorEnv, shared_memory=False)
    with pytest.raises(ConfigError, match="AsyncVectorEnv resets in the step after"):
        MDPO("MlpPolicy", forgetful)
    forgetful.close()
    env = VectorEnvAdapter(gymnasium.make_vec("CartPole-v1", num_envs=1))
    env.seed(0)
    env.reset()
    for _ in range(30):
        observations, rewards, dones, infos = env.step(np.array([1]))
        assert rewards[0] == 1
        assert dones[0] == (abs(infos[0].get("terminal_observation", observations[0])[2]) > 12 * np.pi / 180)
        assert not dones[0] or abs(observations).max() <= 0.05


@pytest.mark.filterwarnings("ignore:EnvPool seeds are fixed")
def test_envpool_resets_where_an_episode_ends() -> None:
    envpool = pytest.importorskip("envpool")
    raw = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=3, seed=1)
    pool = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=3, seed=1)
    env, actions = as_vec_env(pool), np.array([0, 1, 1])
    assert np.array_equal(env.reset(), raw.reset()[0])
    lengths = np.zeros(3)
    ended = np.zeros(3, bool)
    for _ in range(25):
        observations, rewards, dones, infos = env.step(actions)
        expected, _, terminated, _, _ = raw.step(actions)
        lengths += 1
        assert rewards.tolist() == [1, 1, 1]
        for index in np.flatnonzero(~ended):  # the same episode as in a pool of the same seed
            last = infos[index].get("terminal_observation", observations[index])
            assert np.array_equal(last, expected[index]) and dones[index] == terminated[index]
        for index in np.flatnonzero(dones):
            assert abs(infos[index]["terminal_observation"][2]) > 12 * np.pi / 180 - 1e-6
            assert abs(observations[index]).max() <= 0.05
            assert infos[index]["episode"]["r"] == infos[index]["episode"]["l"] == lengths[index]
            lengths[index] = 0
        ended |= dones
    assert ended.all()


@pytest.mark.filterwarnings("ignore:EnvPool seeds are fixed")
def test_envpool_is_taken_by_the_agents() -> None:
    envpool = pytest.importorskip("envpool")
    pool = envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=2, max_episode_steps=5)
    model = SAC("MlpPolicy", pool, learning_starts=100, **TINY).learn(24)
    assert [episode["l"] for episode in model.ep_info_buffer or ()] == [5] * 4
    assert float(model.replay_buffer.timeouts.sum()) == 4  # type: ignore[union-attr]
    pool = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=2)
    assert MDPO("MlpPolicy", pool, n_steps=8, **TINY).learn(16).num_timesteps == 16
    for options, problem in (({"batch_size": 1}, "without batch_size"), ({"env_type": "dm"}, "env_type='gymnasium'")):
        wrong = envpool.make("CartPole-v1", **{"env_type": "gymnasium", "num_envs": 2, **options})
        with pytest.raises(ConfigError, match=problem):
            MDPO("MlpPolicy", wrong)
