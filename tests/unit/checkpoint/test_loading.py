"""rlopt.load: predictions on raw observations, statistics that travel, refusals; the fuzz script, shortened."""

import importlib.util
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

import rlopt
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.checkpoint.describe import decode_setting, describe_model, encode_setting, rebuild_model
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.checkpoint.model_state import capture_state, save_checkpoint
from rlopt.errors import CheckpointError, ConfigError
from rlopt.storage.spaces import decode_space, encode_space

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8], "activation_fn": "tanh"}, "seed": 0, "device": "cpu"}
OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def pendulum(n_envs: int = 2, normalize: bool = True) -> VecEnv:
    env: VecEnv = VecMonitor(rlopt.make_env("Pendulum-v1", n_envs=n_envs, seed=1, backend="gymnasium"))
    return VecNormalize(env, gamma=0.9, clip_obs=5.0) if normalize else env


def trained(agent: str, normalize: bool = True) -> Any:
    env = pendulum(normalize=normalize)
    if agent == "mdpo":
        model = rlopt.MDPO("MlpPolicy", env, n_steps=16, n_epochs=1, value_batch_size=16, **SMALL)
    else:
        model = rlopt.OffPolicyMDPO("MlpPolicy", env, buffer_size=100, learning_starts=8, batch_size=4, **SMALL)
    return model.learn(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<agent>/checkpoints/step-...``, trained on normalised observations."""
    root = tmp_path_factory.mktemp("runs")
    for agent in ("mdpo", "off_policy_mdpo"):
        model = trained(agent)
        save_checkpoint(model, root / agent / "checkpoints", {"n": 1})
        expected = model.predict(model.get_vec_normalize_env().normalize_obs(OBSERVATIONS), deterministic=True)[0]
        np.save(root / f"{agent}.npy", expected)
    return root


@pytest.mark.parametrize("agent", ["mdpo", "off_policy_mdpo"])
def test_predict_takes_raw_observations_where_the_run_normalised_them(agent: str, folder: Path) -> None:
    expected = np.load(folder / f"{agent}.npy")
    random_before = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()
    model = rlopt.load(folder / agent, device="cpu")
    assert (np.random.get_state(legacy=False)["state"]["key"] == random_before[0]).all()
    assert torch.equal(torch.get_rng_state(), random_before[1])
    assert type(model) is (rlopt.MDPO if agent == "mdpo" else rlopt.OffPolicyMDPO)
    np.testing.assert_array_equal(model.predict(OBSERVATIONS, deterministic=True)[0], expected)
    np.testing.assert_allclose(model.predict(OBSERVATIONS[0], deterministic=True)[0], expected[0], rtol=1e-5)
    unnormalised = model.policy.predict(OBSERVATIONS, deterministic=True)[0]
    assert not np.array_equal(unnormalised, expected)
    assert model.num_timesteps >= 40
    with pytest.raises(AssertionError):
        model.learn(10)  # Stable-Baselines3's own: set_env first


def test_an_environment_with_vecnormalize_takes_the_statistics(folder: Path) -> None:
    expected = np.load(folder / "mdpo.npy")
    for late in (False, True):
        env = pendulum()
        model = rlopt.load(folder / "mdpo", env=None if late else env, device="cpu")
        if late:
            model.set_env(env)
        assert isinstance(env, VecNormalize)
        assert env.clip_obs == 5.0 and env.gamma == 0.9 and env.obs_rms.count > 40
        np.testing.assert_array_equal(model.predict(env.normalize_obs(OBSERVATIONS), deterministic=True)[0], expected)
        before = model.num_timesteps
        model.learn(32, reset_num_timesteps=False)
        assert model.num_timesteps >= before + 32


def test_training_on_raw_observations_after_normalised_ones_is_refused(folder: Path) -> None:
    model = rlopt.load(folder / "mdpo", env=pendulum(normalize=False), device="cpu")
    np.testing.assert_array_equal(model.predict(OBSERVATIONS, deterministic=True)[0], np.load(folder / "mdpo.npy"))
    with pytest.raises(ConfigError, match="VecNormalize"):
        model.learn(32)


def test_without_normalisation_nothing_is_applied(tmp_path: Path) -> None:
    model = trained("off_policy_mdpo", normalize=False)
    loaded = rlopt.load(save_checkpoint(model, tmp_path), device="cpu")
    expected = model.predict(OBSERVATIONS, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(OBSERVATIONS, deterministic=True)[0], expected)


def test_paths(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "mdpo", run)
    [step] = (run / "checkpoints").iterdir()
    for path in (run, run / "checkpoints", step, str(step)):
        assert rlopt.load(path, device="cpu").num_timesteps == 64
    with pytest.raises(CheckpointError, match=r"best\.json"):
        rlopt.load(run / "best")
    (run / "best.json").write_text(json.dumps({"checkpoint": step.name, "mean_return": 1.0}))
    assert rlopt.load(run / "best", device="cpu").num_timesteps == 64
    (run / "best.json").write_text(json.dumps({"checkpoint": "../../" + step.name}))
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        rlopt.load(run / "best")
    newer = step.with_name("step-000000000099")
    shutil.copytree(step, newer)
    with pytest.warns(UserWarning, match="step-000000000099 is damaged"):
        assert rlopt.load(run, device="cpu").num_timesteps == 64
    with pytest.raises(CheckpointError, match="does not match"):
        rlopt.load(newer)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="give a run folder"):
            rlopt.load(path)


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "sprung"), "w"))

    file = tmp_path / "model.zip"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="only if you trust its source"):
        rlopt.load(file)
    assert not (tmp_path / "sprung").exists()


def test_another_environment_is_refused_naming_both(folder: Path) -> None:
    env = rlopt.make_env("MountainCarContinuous-v0", backend="gymnasium")
    with pytest.raises(CheckpointError, match=r"observation space Box.*\(3,\).*Box.*\(2,\)"):
        rlopt.load(folder / "mdpo", env=env)


def test_larger_networks_than_are_stored_are_refused_before_they_are_built(folder: Path, tmp_path: Path) -> None:
    [path] = (folder / "mdpo" / "checkpoints").iterdir()
    checkpoint = read_checkpoint(path)
    for net_arch in ([10**6, 10**6], [10**12], {"type": "dict", "items": {"pi": [8, 10**9], "vf": [8]}}):
        checkpoint.trees["model"]["settings"]["policy_kwargs"]["items"]["net_arch"] = net_arch
        forged = write_checkpoint(tmp_path, checkpoint.step, checkpoint.trees, {})
        with pytest.raises(CheckpointError, match="larger networks"):
            rlopt.load(forged)


@pytest.mark.parametrize("name", ["env", "device", "tensorboard_log", "_init_setup_model", "self", "no_such_setting"])
def test_settings_that_are_none_of_a_files_business_are_refused(name: str) -> None:
    description = describe_model(trained("mdpo", normalize=False))
    description["settings"][name] = "os:system"
    with pytest.raises(CheckpointError, match=name):
        rebuild_model(description)


def test_a_rebuilt_model_has_the_same_settings_and_shapes() -> None:
    model = trained("off_policy_mdpo")
    description = json.loads(json.dumps(describe_model(model), allow_nan=False))
    again = rebuild_model(description, pendulum(), device="cpu")
    assert describe_model(again) == description
    own, other = (capture_state(m)["networks"]["modules"] for m in (model, again))
    assert {n: {k: v.shape for k, v in t.items()} for n, t in own.items()} == {
        n: {k: v.shape for k, v in t.items()} for n, t in other.items()
    }


SPACES = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(np.array([-np.inf, 0.1]), np.array([np.inf, 1 / 3]), dtype=np.float64),
    spaces.Box(0, 255, (84, 84, 3), np.uint8),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiDiscrete([3, 2], start=[1, -1]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"x": spaces.Box(0, 1, (1,))})}),
    spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,), np.float16))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back_exactly(space: spaces.Space[Any]) -> None:
    text = json.dumps(encode_space(space), allow_nan=False)
    back = decode_space(json.loads(text))
    assert back == space and type(back) is type(space) and back.dtype == space.dtype and back.shape == space.shape
    assert json.dumps(encode_space(back)) == text
    if isinstance(space, spaces.Box):
        assert back.low.tobytes() == space.low.tobytes() and back.high.tobytes() == space.high.tobytes()
    if isinstance(space, spaces.Dict):
        assert list(back.spaces) == list(space.spaces)


def test_a_space_without_a_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="Text"):
        encode_space(spaces.Text(3))


def test_settings_come_back_exactly() -> None:
    value = {
        "a": [1, 2.5, None, True, "x", (1, (2,))],
        "class": NatureCNN,
        "nn": torch.nn.ELU,
        "goal": GoalSelectionStrategy.FUTURE,
        "array": np.arange(3, dtype=np.int16),
        "type": "class",
    }
    back = decode_setting(json.loads(json.dumps(encode_setting("s", value))))
    assert (back.pop("array") == value.pop("array")).all()
    assert back == value
    for schedule in (LinearSchedule(1.0, 0.1, 0.5), ConstantSchedule(0.3), FloatSchedule(LinearSchedule(2, 1, 1))):
        again = decode_setting(json.loads(json.dumps(encode_setting("s", schedule))))
        assert type(again) is type(schedule) and again(0.7) == schedule(0.7) and again(0.2) == schedule(0.2)
    noises = (NormalActionNoise(np.zeros(2), np.ones(2)), OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2), dt=0.5))
    for noise in (*noises, VectorizedActionNoise(noises[1], 3)):
        again = decode_setting(json.loads(json.dumps(encode_setting("s", noise))))
        np.random.seed(1)
        expected = [noise(), noise()]
        np.random.seed(1)
        np.testing.assert_array_equal([again(), again()], expected)


def test_a_model_without_environment_says_what_to_do() -> None:
    env = SpacesOnlyVecEnv(2, spaces.Discrete(2), spaces.Discrete(2))
    with pytest.raises(ConfigError, match="set_env"):
        env.reset()
    with pytest.raises(ConfigError, match="set_env"):
        env.step(np.zeros(2))


@pytest.mark.slow
def test_fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(__file__).parents[3] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    monkeypatch.setattr("warnings.showwarning", lambda *args, **kwargs: None)
    specification = importlib.util.spec_from_file_location("fuzz_checkpoints", scripts / "fuzz_checkpoints.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "fuzz_checkpoints", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "MEMORY_LIMIT_MB", 10**6)  # the process holds what other tests left
    report = module.fuzz(200, 0, tmp_path / "fuzz")
    assert report.failures == []
    assert sum(report.outcomes.values()) == 200
    assert {"refused when restored", "refused, the one before used"} <= {outcome for _, outcome in report.outcomes}
