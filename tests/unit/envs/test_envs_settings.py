"""What make_env refuses, and what it makes of names, backends and seeds."""

import json
import os
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

import rlopt
from rlopt.envs import make
from rlopt.envs.backends import pool_support, warp_physics
from rlopt.envs.settings import EnvSettings, derive_seeds
from rlopt.errors import ConfigError, EnvFaultError, SpaceError, UnknownNameError

pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'rlopt[fast]'")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("dm_control/cheeta-run", "dm_control/cheetah-run"),
        ("dm_control/walker_walk", "dm_control/walker-walk"),
        ("rlopt/Coridor-v0", "rlopt/Corridor-v0"),
    ],
)
def test_unknown_id_names_the_nearest(wrong, right):
    with pytest.raises(UnknownNameError, match=repr(right)):
        rlopt.make_env(wrong)


class Fragile(gymnasium.Env):
    """Fails while it is made, in a way that its arguments choose."""

    def __init__(self, how="", render_mode=None):
        if how == "value":
            raise ValueError("size must be\neven")
        if how == "type":
            len(3)
        if how == "package":
            import nosuchpackage  # noqa: F401
        if how == "file":
            raise FileNotFoundError(2, "No such file or directory", "arm.xml")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"how": "value"}, r"Fragile-v0 failed in __init__\(\): ValueError: size must be even$"),
        ({"how": "type"}, r"failed in __init__\(\): TypeError: object of type 'int' has no len\(\)$"),
        ({"how": "file"}, r"failed in __init__\(\): FileNotFoundError: .*'arm\.xml'"),
        ({"how": "package"}, "needs a package that is not installed: No module named 'nosuchpackage'"),
        ({"hwo": "value"}, r"does not take env_kwargs \{'hwo': 'value'\}: .*unexpected keyword argument 'hwo'$"),
    ],
)
def test_an_environment_that_cannot_be_made_says_why(arguments, reason):
    gymnasium.register("rlopt-test/Fragile-v0", entry_point=Fragile)
    try:
        with pytest.raises((ConfigError, EnvFaultError), match=reason) as raised:
            rlopt.make_env("rlopt-test/Fragile-v0", env_kwargs=arguments)
    finally:
        del gymnasium.registry["rlopt-test/Fragile-v0"]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_envs", 0),
        ("n_envs", 70_000),
        ("n_envs", 2.5),
        ("n_envs", True),
        ("seed", -1),
        ("action_repeat", 0),
        ("action_repeat", 101),
        ("frame_stack", 0),
        ("image_size", 4),
        ("camera_id", -2),
        ("max_episode_steps", 0),
        ("num_threads", 0),
        ("from_pixels", "yes"),
        ("render_mode", "human"),
        ("backend", "gym"),
        ("env_kwargs", {"f": print}),
        ("env_kwargs", {"no_such_argument": 1}),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=option if option != "env_kwargs" else "env_kwargs"):
        rlopt.make_env("CartPole-v1", **{option: value})


def test_missing_package_and_module():
    with pytest.raises(ConfigError, match="no_such_module"):
        rlopt.make_env("no_such_module:Thing-v0")


def test_auto_backend():
    def backend(env_id, n_envs, **options):
        return make.resolve_backend(EnvSettings(id=env_id, n_envs=n_envs, **options))

    assert backend("HalfCheetah-v5", 4) == "envpool"
    assert backend("dm_control/cheetah-run", 64) == "envpool"
    assert backend("HalfCheetah-v5", 3) == "gymnasium"
    assert backend("CartPole-v1", 8) == "gymnasium"
    assert backend("HalfCheetah-v5", 8, backend="gymnasium") == "gymnasium"
    assert backend("HalfCheetah-v5", 8, from_pixels=True) == "gymnasium"
    assert backend("HalfCheetah-v5", 8, render_mode="rgb_array") == "gymnasium"
    assert backend("HalfCheetah-v5", 8, env_kwargs={"ctrl_cost_weight": 0.0}) == "gymnasium"
    assert backend("HalfCheetah-v5", 1, backend="envpool") == "envpool"


@pytest.mark.parametrize("options", [{"render_mode": "rgb_array"}, {"env_kwargs": {"a": 1}}, {"fast_render": True}])
def test_what_envpool_cannot_do(options):
    with pytest.raises(ConfigError, match="gymnasium"):
        rlopt.make_env("HalfCheetah-v5", 4, backend="envpool", **options)
    with pytest.raises(ConfigError, match="CartPole"):
        rlopt.make_env("CartPole-v1", 4, backend="envpool")


@pytest.mark.parametrize(
    ("failure", "cure"),
    [
        (ModuleNotFoundError("No module named 'envpool'", name="envpool"), r"pip install 'rlopt\[fast\]'"),
        (FileNotFoundError("envpool_assets/metadata"), r"pip install 'rlopt\[fast\]'"),
        (ImportError("libOpenGL.so.0: cannot open shared object file"), "libOpenGL.so.0: apt-get install .*libopengl0"),
        (ImportError("libgomp.so.1: cannot open shared object file"), "libgomp.so.1: install the package of"),
    ],
)
def test_envpool_missing_or_without_its_assets_or_libraries(monkeypatch, failure, cure):
    def broken(name):
        raise failure

    monkeypatch.setattr(pool_support, "importlib", SimpleNamespace(import_module=broken))
    pool_support.envpool_problem.cache_clear()
    try:
        with pytest.raises(ConfigError, match=cure):
            rlopt.make_env("HalfCheetah-v5", 4, backend="envpool")
        with pytest.warns(match=f"Gymnasium simulates HalfCheetah-v5, which is slower: .*{cure}"):
            assert make.resolve_backend(EnvSettings(id="HalfCheetah-v5", n_envs=8)) == "gymnasium"
    finally:
        pool_support.envpool_problem.cache_clear()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "HalfCheetah-v5"}, "tasks of dm_control only"),
        ({"frame_stack": 2, "from_pixels": True}, "does not take frame_stack, from_pixels"),
        ({"env_kwargs": {"a": 1}}, "does not take env_kwargs"),
        ({"render_mode": "rgb_array"}, "does not take render_mode"),
    ],
)
def test_what_warp_cannot_do(options, words):
    with pytest.raises(ConfigError, match=words):
        rlopt.make_env(**{"id": "dm_control/walker-walk", **options}, backend="warp")


@pytest.mark.parametrize("missing", ["warp", "mujoco_warp", "dm_control.suite"])
def test_warp_missing(monkeypatch, missing):
    def imported(name):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return SimpleNamespace(config=SimpleNamespace(), LOG_WARNING=1)

    monkeypatch.setattr(warp_physics, "importlib", SimpleNamespace(import_module=imported))
    warp_physics.import_warp.cache_clear()
    try:
        with pytest.raises(ConfigError, match=rf"needs {missing}: pip install 'rlopt\[warp\]'"):
            rlopt.make_env("dm_control/walker-walk", 4, backend="warp", device="cpu")
    finally:
        warp_physics.import_warp.cache_clear()


def test_settings_make_an_equal_environment():
    env = rlopt.make_env("HalfCheetah-v5", np.int64(2), seed=4, action_repeat=2, frame_stack=2, max_episode_steps=30)
    settings = env.settings
    assert settings.backend == "gymnasium"
    described = json.loads(json.dumps(settings.as_dict()))
    again = rlopt.make_env(**described)
    assert again.settings == settings
    np.testing.assert_array_equal(env.reset(), again.reset())


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "dm_control/quadruped-walk", "PointMaze_UMaze-v3"])
def test_both_backends_have_the_same_spaces(env_id):
    pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    first, second = (rlopt.make_env(env_id, 2, backend=backend) for backend in ("gymnasium", "envpool"))
    assert first.observation_space == second.observation_space
    assert first.action_space.shape == second.action_space.shape
    np.testing.assert_allclose(first.action_space.low, second.action_space.low, rtol=1e-6)
    np.testing.assert_allclose(first.action_space.high, second.action_space.high, rtol=1e-6)
    for env in (first, second):
        observation = env.reset()
        parts = observation if isinstance(observation, dict) else {"": observation}
        assert all(part.dtype == np.float32 for part in parts.values())
        assert env.action_space.dtype == np.float32


def test_observation_spaces_that_cannot_be_used():
    class Nested(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Dict({"b": gymnasium.spaces.Discrete(2)})})
        action_space = gymnasium.spaces.Discrete(2)

    gymnasium.register("rlopt-test/Nested-v0", entry_point=Nested)
    with pytest.raises(SpaceError, match="flatten"):
        rlopt.make_env("rlopt-test/Nested-v0")
    with pytest.raises(SpaceError, match="frame_stack"):
        rlopt.make_env("FrozenLake-v1", frame_stack=2)


def test_observations_that_are_no_numbers_are_refused():
    text = gymnasium.spaces.Text(5)

    class Spoken(gymnasium.Env):
        observation_space = text
        action_space = gymnasium.spaces.Discrete(2)

    class PartlySpoken(Spoken):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2), "b": text})

    for name, entry in (("Spoken", Spoken), ("PartlySpoken", PartlySpoken)):
        gymnasium.register(f"rlopt-test/{name}-v0", entry_point=entry)
        with pytest.raises(SpaceError, match=r"must be numbers, got Text.*encode them in the environment"):
            rlopt.make_env(f"rlopt-test/{name}-v0")


@pytest.mark.parametrize(
    ("given", "found", "key"),
    [
        (np.zeros(3, np.float32), r"of shape \(3,\) in reset\(\), its observation_space says \(2,\)", ""),
        ("words", r"that is 'words' in reset\(\), its observation_space says \(2,\)", ""),
        (
            {"a": np.zeros((2, 2), np.float32)},
            r"'a' of shape \(2, 2\) in reset\(\), its observation_space says \(2,\)",
            "a",
        ),
    ],
)
def test_an_observation_unlike_its_space_is_named(given, found, key):
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    class Other(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({key: box}) if key else box
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return given, {}

    gymnasium.register("rlopt-test/Other-v0", entry_point=Other)
    with pytest.raises(SpaceError, match=f"gave an observation ?{found}: make the two agree"):
        rlopt.make_env("rlopt-test/Other-v0").reset()
    del gymnasium.registry["rlopt-test/Other-v0"]


@pytest.mark.parametrize(
    ("outcome", "named"),
    [
        ((0, None, False, False, {}), r"the reward None in step\(\): make it one number"),
        (
            (0, np.array([1.0, 2.0]), False, False, {}),
            r"the reward array\(\[1\., 2\.\]\) in step\(\): make it one number",
        ),
        ((0, 1.0, False, {}), "old interface of Gym"),
        (None, "does not return observation, reward"),
    ],
)
def test_a_step_that_returns_something_else_is_named(outcome, named):
    class Odd(gymnasium.Env):
        observation_space = action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return outcome

    gymnasium.register("rlopt-test/Odd-v0", entry_point=Odd, disable_env_checker=True, order_enforce=False)
    env = rlopt.make_env("rlopt-test/Odd-v0")
    env.reset()
    with pytest.raises(SpaceError, match=named):
        env.step(np.zeros(1, int))
    del gymnasium.registry["rlopt-test/Odd-v0"]


def test_run_seeds_share_no_stream():
    first, second = derive_seeds(1, 64), derive_seeds(2, 64)
    assert len(set(first)) == len(set(second)) == 64
    assert not set(first) & set(second)
    assert derive_seeds(1, 8) == first[:8]
    assert not set(derive_seeds(1, 64, generation=1)) & set(first)
    assert all(0 <= seed < 2**31 for seed in first)


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "dm_control/pendulum-swingup"])
def test_seeds_reproduce_and_do_not_overlap(env_id, backend):
    def starts(seed, reseed=None):
        env = rlopt.make_env(env_id, 8, seed=seed, backend=backend)
        if reseed is not None:
            env.seed(reseed)
        rows = env.reset()
        env.close()
        return rows

    one, two = starts(1), starts(2)
    np.testing.assert_array_equal(one, starts(1))
    np.testing.assert_array_equal(one, starts(7, reseed=1))
    everything = np.concatenate([one, two])
    assert len(np.unique(everything, axis=0)) == 16


def test_state_only_use_asks_for_no_gl(monkeypatch):
    from rlopt.envs import rendering

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    rendering.prepare_state()
    assert os.environ["MUJOCO_GL"] == "disable"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    rendering.prepare_state()
    assert os.environ["MUJOCO_GL"] == "osmesa"
