"""Episode ends worked out by hand: terminal observations, truncation and same-step autoreset on both code paths."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rlopt
from rlopt.envs import tables
from rlopt.envs.backends import envpool_vec
from rlopt.envs.backends.envpool_vec import EnvPoolVecEnv
from rlopt.envs.settings import EnvSettings

LENGTH, LIMIT = 4, 6


class CorridorPool:
    """The corridor as EnvPool would offer it, with all of EnvPool's habits.

    Dict observations with an entry more than the task's own, float64; autoreset in the step after the end; the reset
    row carries the last reward; an end in the last allowed step counts as truncated only. Stepping an environment
    that has ended is an error here: the adapter must reset it first.
    """

    def __init__(self, num_envs, max_episode_steps):
        self.limit = max_episode_steps
        self.cells = np.zeros(num_envs, int)
        self.elapsed = np.zeros(num_envs, int)
        self.over = np.zeros(num_envs, bool)

    def _observe(self, ids):
        return {"extra": np.full((len(ids), 2), 99.0), "cell": self.cells[ids].astype(np.float64)}

    def reset(self, env_id=None):
        ids = np.arange(len(self.cells)) if env_id is None else env_id
        self.cells[ids] = self.elapsed[ids] = 0
        self.over[ids] = False
        return self._observe(ids), {}

    def step(self, actions, env_id=None):
        ids = np.arange(len(self.cells)) if env_id is None else env_id
        assert not self.over[ids].any(), "stepped an environment that had ended"
        self.cells[ids] += actions[:, 0] > 0.5
        self.elapsed[ids] += 1
        reached = self.cells[ids] >= LENGTH
        truncated = self.elapsed[ids] >= self.limit
        self.over[ids] = reached | truncated
        reward = np.where(reached, 0.9, -0.1).astype(np.float32)
        info = {"env_id": ids, "elapsed_step": self.elapsed[ids], "progress": self.cells[ids] / LENGTH}
        return self._observe(ids), reward, reached & ~truncated, truncated, info

    def close(self):
        pass


class FakeEnvPool:
    __version__ = "fake"

    def make_spec(self, pool_id):
        box = spaces.Box(-np.inf, np.inf, (), np.float64)
        observation = spaces.Dict({"extra": spaces.Box(-np.inf, np.inf, (2,), np.float64), "cell": box})
        return SimpleNamespace(
            gymnasium_observation_space=observation, gymnasium_action_space=spaces.Box(0.0, 1.0, (1,), np.float64)
        )

    def make(self, pool_id, env_type, num_envs, num_threads, seed, max_episode_steps):
        assert len(set(seed)) == num_envs
        return CorridorPool(num_envs, max_episode_steps)


@pytest.fixture(params=["gymnasium", "envpool"])
def make_corridor(request, monkeypatch):
    """Makes the corridor on either code path, and a batch of its actions from booleans."""
    if request.param == "gymnasium":

        def make(n_envs, **options):
            return rlopt.make_env("rlopt/Corridor-v0", n_envs, backend="gymnasium", **options)

        return make, lambda right: np.array(right, int)
    monkeypatch.setattr(envpool_vec, "import_envpool", FakeEnvPool)
    monkeypatch.setitem(tables.POOL_TASKS, "rlopt/Corridor-v0", tables.PoolTask("Corridor-v0", LIMIT, ("cell",)))

    def make_fake(n_envs, **options):
        return EnvPoolVecEnv(EnvSettings(id="rlopt/Corridor-v0", n_envs=n_envs, backend="envpool", **options))

    return make_fake, lambda right: np.array(right, np.float32)[:, None]


def test_ends_of_episodes(make_corridor):
    make, actions = make_corridor
    env = make(3)
    assert env.reset().tolist() == [[0], [0], [0]]
    # Environment 0 always goes right, 1 always stays, 2 stays twice and arrives in the very last allowed step.
    plan = [[1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1]]
    cells = [[1, 0, 0], [2, 0, 0], [3, 0, 1], [0, 0, 2], [1, 0, 3], [2, 0, 0], [3, 0, 1]]
    rewards = [[-0.1] * 3] * 3 + [[0.9, -0.1, -0.1]] + [[-0.1] * 3] + [[-0.1, -0.1, 0.9]] + [[-0.1] * 3]
    ends = {3: {0: (4.0, False)}, 5: {1: (0.0, True), 2: (4.0, False)}}
    for step, right in enumerate(plan):
        observation, reward, dones, infos = env.step(actions(right))
        assert observation.dtype == reward.dtype == np.float32
        assert observation[:, 0].tolist() == cells[step]
        np.testing.assert_allclose(reward, rewards[step], rtol=1e-6)
        expected = ends.get(step, {})
        assert dones.tolist() == [index in expected for index in range(3)]
        for index, info in enumerate(infos):
            if index in expected:
                last, truncated = expected[index]
                assert info["terminal_observation"].tolist() == [last]
                assert info["TimeLimit.truncated"] is truncated
            else:
                assert "terminal_observation" not in info
                assert info["TimeLimit.truncated"] is False


def test_action_repeat_sums_rewards_and_stops_at_the_end(make_corridor):
    make, actions = make_corridor
    env = make(2, action_repeat=3)
    env.reset()
    observation, reward, dones, _ = env.step(actions([1, 0]))
    assert observation[:, 0].tolist() == [3, 0] and not dones.any()
    np.testing.assert_allclose(reward, [-0.3, -0.3], rtol=1e-6)
    # Environment 0 arrives in the first of the three repeats: one reward, then a fresh episode untouched by the rest.
    observation, reward, dones, infos = env.step(actions([1, 0]))
    assert observation[:, 0].tolist() == [0, 0] and dones.tolist() == [True, True]
    np.testing.assert_allclose(reward, [0.9, -0.3], rtol=1e-6)
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    observation, reward, dones, _ = env.step(actions([1, 1]))
    assert observation[:, 0].tolist() == [3, 3] and not dones.any()


def test_action_repeat_stops_at_the_limit(make_corridor):
    make, actions = make_corridor
    env = make(1, action_repeat=4)
    env.reset()
    _, reward, dones, _ = env.step(actions([0]))
    assert reward.tolist() == pytest.approx([-0.4]) and not dones.any()
    _, reward, dones, infos = env.step(actions([0]))
    assert reward.tolist() == pytest.approx([-0.2]) and dones.all() and infos[0]["TimeLimit.truncated"]


def test_frame_stack(make_corridor):
    make, actions = make_corridor
    env = make(2, frame_stack=3)
    assert env.observation_space.shape == (3,)
    assert env.reset().tolist() == [[0, 0, 0], [0, 0, 0]]
    seen = [env.step(actions([1, 0])) for _ in range(4)]
    assert [step[0].tolist() for step in seen[:3]] == [
        [[0, 0, 1], [0, 0, 0]],
        [[0, 1, 2], [0, 0, 0]],
        [[1, 2, 3], [0, 0, 0]],
    ]
    observation, _, dones, infos = seen[3]
    assert dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [2, 3, 4]
    assert observation.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert env.step(actions([1, 1]))[0].tolist() == [[0, 0, 1], [0, 0, 1]]


def test_own_limit(make_corridor):
    make, actions = make_corridor
    env = make(1, max_episode_steps=2)
    env.reset()
    outcomes = [env.step(actions([0]))[2].item() for _ in range(6)]
    assert outcomes == [False, True] * 3


def test_info_of_the_task_is_given_at_the_end(monkeypatch):
    monkeypatch.setattr(envpool_vec, "import_envpool", FakeEnvPool)
    monkeypatch.setitem(tables.POOL_TASKS, "rlopt/Corridor-v0", tables.PoolTask("Corridor-v0", LIMIT, ("cell",)))
    env = EnvPoolVecEnv(EnvSettings(id="rlopt/Corridor-v0", n_envs=2, backend="envpool", action_repeat=2))
    env.reset()
    infos = [env.step(np.array([[1.0], [0.0]], np.float32))[3] for _ in range(3)]
    assert infos[0] == [{"TimeLimit.truncated": False}] * 2
    assert infos[1][0]["progress"] == 1.0 and "progress" not in infos[1][1]
    assert infos[2][1]["progress"] == 0.0
    # Every step has dicts of its own: what a wrapper writes into one shows in no other.
    infos[0][0]["mark"] = 1
    assert all("mark" not in info for step in infos for info in step if info is not infos[0][0])


def test_renewed_pool_ends_running_episodes_as_truncated(monkeypatch):
    monkeypatch.setattr(envpool_vec, "import_envpool", FakeEnvPool)
    monkeypatch.setitem(tables.POOL_TASKS, "rlopt/Corridor-v0", tables.PoolTask("Corridor-v0", LIMIT, ("cell",)))
    env = EnvPoolVecEnv(EnvSettings(id="rlopt/Corridor-v0", n_envs=2, backend="envpool"), max_resets=1)
    env.reset()
    first = env.pool
    right, half = np.array([[1.0], [1.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
    for actions in (half, right, right):
        assert not env.step(actions)[2].any()
    observation, reward, dones, infos = env.step(right)
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert [info["terminal_observation"].item() for info in infos] == [4.0, 3.0]
    np.testing.assert_allclose(reward, [0.9, -0.1], rtol=1e-6)
    assert observation.tolist() == [[0], [0]]
    assert env.pool is not first
    assert not env.step(half)[2].any()


def test_real_pool_tells_a_fall_in_the_last_step_from_a_cut():
    pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'rlopt[fast]'")

    def run(limit):
        env = rlopt.make_env("Hopper-v5", 2, seed=1, backend="envpool", max_episode_steps=limit)
        env.reset()
        actions = np.random.default_rng(0).uniform(-1.0, 1.0, (300, 2, 3)).astype(np.float32)
        ends = []
        for step, action in enumerate(actions, start=1):
            _, _, dones, infos = env.step(action)
            if dones[0]:
                ends.append((step, infos[0]["TimeLimit.truncated"], infos[0]["terminal_observation"]))
        env.close()
        return ends

    (fall, cut, last), *_ = run(None)
    assert fall < 300 and cut is False
    # The limit right at the fall: it is still a true end, and the same observation ends it.
    assert run(fall)[0][:2] == (fall, False)
    np.testing.assert_array_equal(run(fall)[0][2], last)
    # One step earlier: cut off, and the next episode follows at once, without a step in between.
    steps = [end[0] for end in run(fall - 1)]
    assert run(fall - 1)[0][:2] == (fall - 1, True)
    assert steps[0] == fall - 1 and steps[1] - steps[0] <= fall - 1


def test_stable_baselines_surface():
    env = rlopt.make_env("rlopt/Corridor-v0", 2, render_mode="rgb_array" if _can_render() else None)
    env.reset()
    assert env.get_attr("length") == [4, 4]
    assert env.env_method("_observation", indices=[1])[0].tolist() == [0]
    env.set_attr("mark", 3)
    assert env.get_attr("mark") == [3, 3]
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True, True]
    assert env.has_attr("cell") and not env.has_attr("nothing")


def _can_render():
    from rlopt.envs import rendering

    return rendering.available_gl() is not None
