"""Demonstrations of agents that act, and the policy in a zip file of Stable-Baselines3."""

import base64
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rlopt
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.checkpoint.sb3_zip import read_policy
from rlopt.checkpoint.vec_normalize_file import read_vec_normalize
from rlopt.collect import record_demonstrations
from rlopt.data import Demonstrations
from rlopt.data.columns import with_images_of
from rlopt.envs.pixels import PixelObservation
from rlopt.envs.settings import EnvSettings
from rlopt.errors import CheckpointError, ConfigError, NonFiniteError, SpaceError
from rlopt.evaluation.evaluate import RandomPolicy, evaluate

PENDULUM = EnvSettings(id="Pendulum-v1", max_episode_steps=20)


class Right:
    """Goes right in the corridor."""

    def predict(self, observation: Any, **_: Any) -> Any:
        return np.ones(len(observation), np.int64), None


class Lost:
    """A policy that has diverged."""

    def predict(self, observation: Any, **_: Any) -> Any:
        return np.full((len(observation), 1), np.nan, np.float32), None


def random_policy(bound: float = 1.0) -> RandomPolicy:
    return RandomPolicy(spaces.Box(-bound, bound, (1,), np.float32))


def array(data: Demonstrations, name: str = "observations") -> np.ndarray:
    column = getattr(data, name)
    assert isinstance(column, np.ndarray)
    return column


def test_whole_episodes_with_their_true_terminals() -> None:
    data = record_demonstrations(Right(), EnvSettings(id="rlopt/Corridor-v0"), 3)
    # Four steps to the end, which is a terminal.
    assert array(data).ravel().tolist() == [0, 1, 2, 3] * 3
    assert array(data, "next_observations").ravel().tolist() == [1, 2, 3, 4] * 3
    assert data.discounts.tolist() == [1, 1, 1, 0] * 3
    assert data.episode_ends.tolist() == [False, False, False, True] * 3
    assert data.metadata.expert_return == pytest.approx(0.6, abs=1e-6)
    assert data.metadata.recorded_spaces()[1] == spaces.Discrete(2)
    assert data.actions.dtype == np.int64


def test_a_time_limit_is_a_truncation_and_the_metadata_tell_what_was_done() -> None:
    settings = EnvSettings(id="dm_control/cartpole-swingup", action_repeat=4, max_episode_steps=40, n_envs=8)
    data = record_demonstrations(random_policy(), settings, 2, seed=7, deterministic=False, generator="chance")
    assert len(data) == 20 and data.n_trajectories == 2 and data.discounts.all()
    metadata = data.metadata
    assert (metadata.env, metadata.action_repeat, metadata.seed) == (settings.id, 4, 7)
    assert metadata.observation_keys == ("position", "velocity") and metadata.deterministic is False
    assert metadata.recorded_spaces()[1] == spaces.Box(-1, 1, (1,)) and metadata.generator == "chance"
    assert metadata.max_episode_steps == 40
    assert metadata.expert_return == pytest.approx(data.episode_returns().mean(), rel=1e-6)
    assert {"rlopt", "mujoco", "dm-control", "torch"} <= set(metadata.versions)
    env = rlopt.make_env(settings.id, action_repeat=4, max_episode_steps=40, seed=7, backend="gymnasium")
    data.check_fits(env.settings, env.observation_space, env.action_space)
    env.seed(7)
    seen = env.reset()
    for row in range(len(data)):
        np.testing.assert_array_equal(seen[0], array(data)[row])
        seen, rewards, dones, infos = env.step(data.actions[row : row + 1])
        assert rewards[0] == data.rewards[row] and dones[0] == data.episode_ends[row]
        successor = infos[0]["terminal_observation"] if dones[0] else seen[0]
        np.testing.assert_array_equal(successor, array(data, "next_observations")[row])
    env.close()


def test_mean_and_sampled_actions_are_the_model_s() -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")
    np.random.seed(3)
    torch.manual_seed(3)
    mean = record_demonstrations(model, PENDULUM, 2)
    sampled = record_demonstrations(model, PENDULUM, 2, deterministic=False)
    again = record_demonstrations(model, PENDULUM, 2, deterministic=False)
    drawn = (np.random.random(), torch.rand(()).item())
    np.random.seed(3)
    torch.manual_seed(3)
    assert drawn == (np.random.random(), torch.rand(()).item())
    np.testing.assert_allclose(mean.actions, model.predict(array(mean), deterministic=True)[0], atol=1e-6)
    np.testing.assert_equal(sampled.columns(), again.columns())
    far = np.abs(sampled.actions - model.predict(array(sampled), deterministic=True)[0])
    assert far.max() > 0.1
    assert not np.array_equal(record_demonstrations(model, PENDULUM, 2, seed=1).actions, mean.actions)
    played = evaluate(model, PENDULUM, 2, n_envs=1, seed=0)
    np.testing.assert_allclose(played.returns, mean.episode_returns(), rtol=1e-6)


def test_what_a_model_normalises_is_recorded_raw() -> None:
    env = VecNormalize(rlopt.make_env("Pendulum-v1", n_envs=2, backend="gymnasium", max_episode_steps=20))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    env.obs_rms.mean += 3.0  # type: ignore[union-attr]
    data = record_demonstrations(model, PENDULUM, 1)
    np.testing.assert_allclose(np.linalg.norm(array(data)[:, :2], axis=1), 1, atol=1e-5)  # a cosine and a sine
    expected = model.predict(env.normalize_obs(array(data)), deterministic=True)[0]
    np.testing.assert_allclose(data.actions, expected, atol=1e-5)


def test_actions_are_recorded_within_their_bounds() -> None:
    data = record_demonstrations(random_policy(bound=50.0), PENDULUM, 1)
    assert data.actions.min() == -2 and data.actions.max() == 2


def test_dictionary_observations_stay_parts() -> None:
    settings = EnvSettings(id="PointMaze_UMaze-v3", max_episode_steps=15)
    policy = RandomPolicy(spaces.Box(-1, 1, (2,), np.float32))
    data = record_demonstrations(policy, settings, 2)
    assert isinstance(data.observations, dict) and isinstance(data.next_observations, dict)
    inside = np.flatnonzero(~data.episode_ends)
    for key, column in data.observations.items():
        np.testing.assert_array_equal(column[inside + 1], data.next_observations[key][inside])


def test_bad_requests_are_one_line() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        record_demonstrations(Right(), EnvSettings(id="rlopt/Corridor-v0"), 0)
    with pytest.raises(ConfigError, match="leave --pixels out"):
        record_demonstrations(Right(), EnvSettings(id="Pendulum-v1", from_pixels=True), 1, pixels=True)
    model = SAC("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(SpaceError, match="observation space"):
        record_demonstrations(model, EnvSettings(id="dm_control/cartpole-swingup"), 1)
    with pytest.raises(NonFiniteError, match="action is NaN"):
        record_demonstrations(Lost(), PENDULUM, 1)


@pytest.mark.gl
def test_images_are_those_that_a_pixel_agent_sees_at_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EnvSettings(id="dm_control/cartpole-swingup", action_repeat=2, max_episode_steps=12, image_size=32)
    draw, drawn = PixelObservation.observation, []
    monkeypatch.setattr(PixelObservation, "observation", lambda self, state: drawn.append(0) or draw(self, state))
    data = record_demonstrations(random_policy(), settings, 2, pixels=True)
    # One image a transition, and the first of each episode, also of the one that the last end begins.
    assert len(drawn) == len(data) + 2 + 1
    plain = record_demonstrations(random_policy(), settings, 2)
    assert plain.columns().keys() == data.columns().keys() and not plain.extras
    np.testing.assert_equal({**data.columns(), "extras": {}}, plain.columns())
    assert data.extras["pixels"].shape == (12, 3, 32, 32) and data.extras["pixels"].dtype == np.uint8
    stacked = data.from_pixels(3)
    env = rlopt.make_env(**{**settings.as_dict(), "from_pixels": True, "frame_stack": 3, "backend": "gymnasium"})
    stacked.check_fits(env.settings, env.observation_space, env.action_space)
    seen = env.reset()
    for row in range(len(data)):
        np.testing.assert_array_equal(seen[0], array(stacked)[row])
        seen, _, dones, infos = env.step(data.actions[row : row + 1])
        successor = infos[0]["terminal_observation"] if dones[0] else seen[0]
        np.testing.assert_array_equal(successor, array(stacked, "next_observations")[row])
    env.close()
    assert len(np.unique(data.extras["pixels"])) > 20


MODELS: list[tuple[Any, str, dict[str, Any]]] = [
    (SAC, "Pendulum-v1", {"policy_kwargs": {"net_arch": [32, 16]}}),
    (SAC, "Pendulum-v1", {"policy_kwargs": {"net_arch": [16], "activation_fn": torch.nn.Tanh}, "use_sde": True}),
    (TD3, "Pendulum-v1", {"policy_kwargs": {"net_arch": {"pi": [16], "qf": [8]}}}),
    (PPO, "Pendulum-v1", {"policy_kwargs": {"activation_fn": torch.nn.ELU, "net_arch": {"pi": [8], "vf": [16]}}}),
    (PPO, "CartPole-v1", {"use_sde": False}),
    (DQN, "CartPole-v1", {}),
]


@pytest.mark.parametrize(("algorithm", "env_id", "settings"), MODELS)
def test_a_zip_file_acts_as_its_model(algorithm: Any, env_id: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", env_id, seed=0, device="cpu", **settings)
    model.save(tmp_path / "model.zip")
    env = gymnasium.make(env_id)
    read = read_policy(tmp_path / "model.zip", env.observation_space, env.action_space)
    seen = np.random.default_rng(0).normal(size=(64, *env.observation_space.shape)).astype(np.float32)  # type: ignore[misc]
    np.testing.assert_array_equal(read.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])
    short = EnvSettings(id=env_id, max_episode_steps=20)
    for deterministic in (True, False):
        ours, theirs = (record_demonstrations(who, short, 2, deterministic=deterministic) for who in (read, model))
        np.testing.assert_equal(ours.columns(), theirs.columns())


class Trap:
    """A pickle of it makes a file when it is read."""

    def __reduce__(self) -> Any:
        return open, ("sprung", "w")


def rewrite(source: Path, target: Path, change: Any) -> Path:
    """A copy of a zip file with other settings in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                change(data)
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return target


def test_the_pickles_in_a_zip_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    model.save("model.zip")
    spaces_ = (model.observation_space, model.action_space)
    poison = base64.b64encode(pickle.dumps(Trap())).decode()

    def poisoned(data: dict[str, Any]) -> None:
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = poison

    read_policy(rewrite(Path("model.zip"), Path("poisoned.zip"), poisoned), *spaces_)
    with zipfile.ZipFile("weights.zip", "w") as file:
        with zipfile.ZipFile("model.zip") as old:
            file.writestr("data", old.read("data"))
        file.writestr("policy.pth", pickle.dumps(Trap(), protocol=2))
    with pytest.raises(CheckpointError):
        read_policy(Path("weights.zip"), *spaces_)
    assert not Path("sprung").exists()


def test_bad_zip_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    model.save("model.zip")
    own = (model.observation_space, model.action_space)
    cases: list[tuple[Any, Any, str]] = [
        (lambda data: None, (spaces.Box(-1, 1, (3,)), own[1]), "give the environment"),
        (lambda data: data["policy_class"].update(__module__="mine"), own, "of mine, none of"),
        (lambda data: data["policy_kwargs"].update(features_extractor_class="x"), own, "features_extractor_class"),
        (lambda data: data["policy_kwargs"].update(activation_fn="<class 'os.system'>"), own, "activation function"),
        (lambda data: data["policy_kwargs"].update(net_arch=[10**6, 10**6]), own, "larger networks"),
        (lambda data: data.pop("policy_class"), own, "holds no policy"),
    ]
    for change, both, said in cases:
        with pytest.raises(CheckpointError, match=said) as caught:
            read_policy(rewrite(Path("model.zip"), Path("x.zip"), change), *both)
        assert "\n" not in str(caught.value)
    Path("cut.zip").write_bytes(Path("model.zip").read_bytes()[:-200])
    for name in ("cut.zip", "missing.zip"):
        with pytest.raises(CheckpointError, match=r"holds no policy|does not exist"):
            read_policy(Path(name), *own)


def normalised_expert(folder: Path, **settings: Any) -> tuple[PPO, VecNormalize]:
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), **settings)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    model.save(folder / "model.zip")
    env.save(str(folder / "stats.pkl"))
    return model, env


def test_a_zip_file_of_an_expert_on_normalised_observations_needs_their_statistics(tmp_path: Path) -> None:
    model, env = normalised_expert(tmp_path, clip_obs=3.0)
    zip_file, statistics = tmp_path / "model.zip", tmp_path / "stats.pkl"
    both = model.observation_space, model.action_space
    with pytest.raises(CheckpointError, match=r"trained in a VecNormalize.*--vecnormalize"):
        read_policy(zip_file, *both)
    raw = 10 * np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    wanted = model.predict(env.normalize_obs(raw), deterministic=True)[0]
    read = read_policy(zip_file, *both, vec_normalize=statistics)
    np.testing.assert_array_equal(read.predict(raw, deterministic=True)[0], wanted)
    assert not np.allclose(
        read_policy(zip_file, *both, vec_normalize="none").predict(raw, deterministic=True)[0], wanted
    )
    short = EnvSettings(id="Pendulum-v1", max_episode_steps=20)
    ours, theirs = (record_demonstrations(who, short, 2) for who in (read, model))
    np.testing.assert_equal(ours.columns(), theirs.columns())


def test_statistics_are_read_without_running_what_the_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, _ = normalised_expert(tmp_path, norm_obs=False)
    assert read_vec_normalize(tmp_path / "stats.pkl", model.observation_space) is None
    Path("trap.pkl").write_bytes(pickle.dumps(Trap()))
    Path("cut.pkl").write_bytes(Path("stats.pkl").read_bytes()[:100])
    for name in ("trap.pkl", "cut.pkl", "missing.pkl"):
        with pytest.raises(CheckpointError, match=r"no statistics of VecNormalize|does not exist") as caught:
            read_vec_normalize(Path(name), model.observation_space)
        assert "\n" not in str(caught.value)
    assert not Path("sprung").exists()
    normalised_expert(tmp_path)
    with pytest.raises(CheckpointError, match=r"observations \(3,\), the environment has \(4,\)"):
        read_vec_normalize(Path("stats.pkl"), spaces.Box(-1, 1, (4,)))


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("lie", ["C", "F"])
def test_statistics_of_arrays_are_read_however_they_lie_in_memory(protocol: int, lie: Any, tmp_path: Path) -> None:
    space = spaces.Box(-1, 1, (2, 3), np.float32)
    normalizer = VecNormalize(SpacesOnlyVecEnv(1, space, spaces.Discrete(2)))
    normalizer.obs_rms.mean = np.array([[1.0, 2, 3], [4, 5, 6]], order=lie)
    normalizer.obs_rms.var = np.array([[2.0, 4, 8], [16, 32, 64]], order=lie)
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps(normalizer, protocol=protocol))
    shown = np.array([[[0.5, 0.25, 0], [-1, 1, 2]]], np.float32)
    statistics = read_vec_normalize(tmp_path / "stats.pkl", space)
    assert statistics is not None
    np.testing.assert_array_equal(statistics.normalize_obs(shown), normalizer.normalize_obs(shown))


class Camera(gymnasium.Env[np.ndarray, np.int64]):
    """An image (9, 8, 3) and two choices at a time; an episode has four steps."""

    observation_space = spaces.Box(0, 255, (40, 36, 3), np.uint8)
    action_space = spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return self._image(), 1.0, False, self.step_number == 4, {}

    def _image(self) -> np.ndarray:
        return np.arange(40 * 36 * 3, dtype=np.int64).reshape(40, 36, 3).astype(np.uint8) + np.uint8(self.step_number)


def test_environments_that_exist_are_recorded_and_left_open() -> None:
    by_id = record_demonstrations(Right(), "rlopt/Corridor-v0", 2)
    assert by_id.metadata.env == "rlopt/Corridor-v0" and by_id.n_trajectories == 2
    env = gymnasium.make("Pendulum-v1", max_episode_steps=20)
    ours, again, other = (record_demonstrations(random_policy(), env, 2, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_equal(ours.columns(), again.columns())
    assert len(ours) == 40 and not np.array_equal(array(ours), array(other))
    assert ours.metadata.env == "Pendulum-v1" and ours.discounts.all()
    env.reset()
    env.step(env.action_space.sample())
    data = record_demonstrations(RandomPolicy(Camera.action_space, 0), Camera(), 2)
    assert data.metadata.env == "unknown" and data.actions.shape == (8, 2) and data.actions.dtype == np.int64
    with pytest.raises(ConfigError, match="give one"):
        record_demonstrations(Right(), make_vec_env("CartPole-v1", 2), 1)
    with pytest.raises(ConfigError, match="pixels need an environment id"):
        record_demonstrations(Right(), Camera(), 1, pixels=True)


def test_images_are_learned_from_with_their_channels_first() -> None:
    """As Stable-Baselines3 shows them to a model, whichever way they were recorded."""
    data = record_demonstrations(RandomPolicy(Camera.action_space, 0), Camera(), 1)
    space = spaces.Box(0, 255, (3, 40, 36), np.uint8)
    moved = with_images_of(data, space)
    np.testing.assert_array_equal(array(moved)[2, 1, 3, 4], array(data)[2, 3, 4, 1])
    np.testing.assert_array_equal(with_images_of(moved, space).observations, moved.observations)
    assert array(with_images_of(data, Camera.observation_space)).shape == (4, 40, 36, 3)


def test_a_function_of_an_observation_is_an_expert() -> None:
    seen = []

    def push(observation: np.ndarray) -> int:
        seen.append(observation.shape)
        return int(observation[2] > 0)

    data = record_demonstrations(push, "CartPole-v1", 2)
    assert set(seen) == {(4,)} and data.metadata.generator == "push"
    assert np.array_equal(data.actions, (data.observations[:, 2] > 0).astype(np.int64))
    with pytest.raises(ConfigError, match="str has no predict and is not a function"):
        record_demonstrations("expert", "CartPole-v1", 2)  # type: ignore[arg-type]
