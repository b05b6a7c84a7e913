"""get_state and set_state: the environment that is set goes on bit for bit as the one that was read."""

import copy

import gymnasium
import numpy as np
import pytest

import rlopt
from rlopt.envs.backends import envpool_vec
from rlopt.envs.backends.envpool_vec import EnvPoolVecEnv
from rlopt.envs.settings import EnvSettings
from rlopt.errors import StateUnavailableError

pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'rlopt[fast]'")
pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed: pip install 'rlopt[d4rl]'")

GYMNASIUM = [
    *("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Walker2d-v5", "Humanoid-v5"),
    *("CartPole-v1", "Pendulum-v1", "PointMaze_UMaze-v3", "rlopt/RandomTarget-v0"),
    *(
        f"dm_control/{task}"
        for task in (
            *("cheetah-run", "walker-walk", "humanoid-stand", "quadruped-walk", "ball_in_cup-catch", "reacher-easy"),
            *("finger-turn_hard", "fish-swim", "point_mass-hard", "lqr-lqr_2_1", "manipulator-bring_ball"),
        )
    ),
]
ENVPOOL = [
    *("HalfCheetah-v5", "Hopper-v5", "PointMaze_UMaze-v3"),
    *("dm_control/cheetah-run", "dm_control/walker-walk", "dm_control/quadruped-walk"),
]
STACKED = {"action_repeat": 2, "frame_stack": 3}
CASES = [
    *(("gymnasium", env_id, {}) for env_id in GYMNASIUM),
    *(("envpool", env_id, {}) for env_id in ENVPOOL),
    ("gymnasium", "Hopper-v5", STACKED),
    ("gymnasium", "dm_control/walker-walk", STACKED),
    ("gymnasium", "Pendulum-v1", STACKED),
    ("envpool", "Hopper-v5", STACKED),
    ("envpool", "dm_control/walker-walk", STACKED),
    ("envpool", "PointMaze_UMaze-v3", STACKED),
]


def draw_actions(space, n_envs, count):
    space.seed(7)
    return [np.array([space.sample() for _ in range(n_envs)]) for _ in range(count)]


def record(env, actions):
    """Everything that a run sees of the steps."""
    steps = []
    for action in actions:
        observation, reward, dones, infos = env.step(action)
        ends = [(info.get("terminal_observation"), info["TimeLimit.truncated"]) for info in infos]
        steps.append((observation, reward, dones, ends))
    return steps


def same_bits(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same_bits, left, right))
    if left is None or right is None:
        return left is right
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def check_tree(value):
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        for inner in value.values():
            check_tree(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_tree(inner)
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "fiub"
    else:
        assert value is None or isinstance(value, np.number) or type(value) in (str, int, float, bool), type(value)


@pytest.mark.parametrize(("backend", "env_id", "options"), CASES)
def test_continues_bit_for_bit(backend, env_id, options):
    repeat = options.get("action_repeat", 1)
    limit = 20 * repeat
    env = rlopt.make_env(env_id, 2, seed=3, backend=backend, max_episode_steps=limit, **options)
    actions = draw_actions(env.action_space, 2, 85)
    env.reset()
    record(env, actions[:33])
    state = env.get_state()
    check_tree(state)
    frozen = copy.deepcopy(state)
    expected = record(env, actions[33:])
    assert sum(step[2].sum() for step in expected) >= 2 * 2, "two later resets of each environment"
    assert same_bits(state, frozen), "the state changed with the environment that gave it"

    fresh = rlopt.make_env(**env.settings.as_dict())
    fresh.set_state(state)
    assert same_bits(record(fresh, actions[33:]), expected)
    # An environment that is in the middle of something else goes back just as well.
    env.set_state(state)
    assert same_bits(record(env, actions[33:]), expected)
    for each in (env, fresh):
        each.close()


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_state_before_the_first_reset_keeps_the_seeds(backend):
    env = rlopt.make_env("HalfCheetah-v5", 2, seed=1, backend=backend)
    env.seed(9)
    fresh = rlopt.make_env("HalfCheetah-v5", 2, seed=1, backend=backend)
    fresh.set_state(env.get_state())
    np.testing.assert_array_equal(fresh.reset(), env.reset())


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_state_of_other_settings_is_refused(backend):
    env = rlopt.make_env("HalfCheetah-v5", 2, backend=backend)
    env.reset()
    state = env.get_state()
    for options in ({"n_envs": 3}, {"action_repeat": 2}, {"max_episode_steps": 7}):
        other = rlopt.make_env(**{**env.settings.as_dict(), **options})
        with pytest.raises(StateUnavailableError, match=next(iter(options))):
            other.set_state(state)
    other = "gymnasium" if backend == "envpool" else "envpool"
    with pytest.raises(StateUnavailableError, match="backend"):
        rlopt.make_env("HalfCheetah-v5", 2, backend=other).set_state(state)


def test_state_of_another_version_is_refused():
    env = rlopt.make_env("HalfCheetah-v5", 2, backend="envpool")
    env.reset()
    with pytest.raises(StateUnavailableError, match="pip install envpool==0"):
        env.set_state({**env.get_state(), "envpool": "0.1"})
    env = rlopt.make_env("HalfCheetah-v5", 1, backend="gymnasium")
    env.reset()
    state = env.get_state()
    state["envs"][0]["mujoco"] = "0.2"
    with pytest.raises(StateUnavailableError, match="pip install mujoco==0"):
        env.set_state(state)


def test_replay_that_differs_is_refused():
    env = rlopt.make_env("Hopper-v5", 2, backend="envpool")
    env.reset()
    record(env, draw_actions(env.action_space, 2, 5))
    state = env.get_state()
    state["log"]["actions"][3, 0] += 0.125
    with pytest.raises(StateUnavailableError, match="replay"):
        rlopt.make_env(**env.settings.as_dict()).set_state(state)


def test_renewed_pools_continue_too(monkeypatch):
    monkeypatch.setattr(envpool_vec, "MAX_RESETS", 3)
    settings = EnvSettings(id="Hopper-v5", n_envs=2, seed=3, backend="envpool", max_episode_steps=9)
    env = EnvPoolVecEnv(settings)
    actions = draw_actions(env.action_space, 2, 120)
    starts = [env.reset()]
    first_half = record(env, actions[:50])
    state = env.get_state()
    assert state["generation"] >= 1
    expected = record(env, actions[50:])
    fresh = EnvPoolVecEnv(settings)
    fresh.set_state(state)
    assert same_bits(record(fresh, actions[50:]), expected)
    starts += [step[0][index] for step in first_half + expected for index in range(2) if step[2][index]]
    rows = np.concatenate([np.atleast_2d(start) for start in starts])
    assert len(np.unique(rows, axis=0)) == len(rows), "a renewed pool begins other episodes"


class Drifting(gymnasium.Env):
    """Draws from generators of its own: one that the base class knows, one that is an attribute, or a hidden one."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, source="np_random"):
        self.source = source
        self.noise = np.random.default_rng(0)
        self.hidden = [np.random.default_rng(0)]

    def _draw(self):
        if self.source == "hidden":
            return self.hidden[0].normal()
        return (self.noise if self.source == "attribute" else self.np_random).normal()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self._draw()
        return np.array([self.position, 0.0]), {}

    def step(self, action):
        self.position += float(action[0]) + self._draw()
        return np.array([self.position, action[0]]), self.position, self.position > 3.0, False, {}


class Remembering(Drifting):
    """Keeps a count over episodes, and says so by giving its state."""

    def __init__(self):
        super().__init__("np_random")
        self.count = 0

    def reset(self, *, seed=None, options=None):
        self.count += 1
        observation, info = super().reset(seed=seed)
        return observation + self.count, info

    def get_state(self):
        return {"count": self.count, "position": self.position}

    def set_state(self, state):
        self.count, self.position = state["count"], state["position"]


for _name, _class in (("Drifting", Drifting), ("Remembering", Remembering)):
    gymnasium.register(f"rlopt-test/{_name}-v0", entry_point=_class, max_episode_steps=12)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("rlopt-test/Drifting-v0", {"source": "np_random"}),
        ("rlopt-test/Drifting-v0", {"source": "attribute"}),
        ("rlopt-test/Drifting-v0", {"source": "hidden"}),
        ("rlopt-test/Remembering-v0", None),
    ],
)
def test_python_environments(env_id, kwargs):
    env = rlopt.make_env(env_id, 2, seed=5, env_kwargs=kwargs)
    actions = draw_actions(env.action_space, 2, 80)
    env.reset()
    record(env, actions[:29])
    state = env.get_state()
    check_tree(state)
    expected = record(env, actions[29:])
    assert sum(step[2].sum() for step in expected) >= 4
    fresh = rlopt.make_env(**env.settings.as_dict())
    fresh.set_state(state)
    assert same_bits(record(fresh, actions[29:]), expected)
