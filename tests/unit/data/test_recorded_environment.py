"""The environment that a data set carries: what is recorded, what Minari says of it, and what a file may not do."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

import rlopt
from rlopt.data import Dataset, Metadata, load_dataset, write_minari
from rlopt.data.description import describe
from rlopt.data.environment import made, recorded, settings_of, spaces_of
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError, ImportRefusedError
from rlopt.storage.spaces import encode_space

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MAZE = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
ASYMMETRIC = spaces.Box(np.array([-0.4, 0], np.float32), np.array([0.4, 2], np.float32))


@pytest.fixture(autouse=True)
def datasets_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def minari_set(spec: Any = None, action_space: spaces.Space = ASYMMETRIC) -> None:
    rng = np.random.default_rng(0)
    buffer = EpisodeBuffer(
        id=0,
        observations=rng.normal(size=(6, 4)),
        actions=rng.uniform([-0.4, 0], [0.4, 2], (5, 2)).astype(np.float32),  # type: ignore[arg-type]
        rewards=[0.0] * 5,
        terminations=[False] * 5,
        truncations=[False] * 4 + [True],
        infos={},
    )
    minari.create_dataset_from_buffers(
        "test/set-v0",
        [buffer],
        env=spec,
        observation_space=spaces.Box(-9, 9, (4,), np.float64),
        action_space=action_space,
    )


def test_minari_s_arguments_wrappers_limit_and_spaces_are_kept(datasets_here: Path) -> None:
    minari_set()
    path = datasets_here / "test" / "set-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["env_spec"] = json.dumps(
        {
            "id": "PointMaze_UMaze-v3",
            "entry_point": "os:getcwd",
            "max_episode_steps": 77,
            "kwargs": {"maze_map": MAZE, "continuing_task": True, "render_mode": "rgb_array"},
            "additional_wrappers": [{"name": "Delay", "entry_point": "antigravity:fly", "kwargs": {"steps": 2}}],
        }
    )
    path.write_text(json.dumps(metadata))
    for data in (load_dataset("minari:test/set-v0"), load_dataset(path.parent), load_dataset(path.parent.parent)):
        found = data.metadata
        assert (found.env, found.max_episode_steps) == ("PointMaze_UMaze-v3", 77)
        assert found.env_kwargs == {"maze_map": MAZE, "continuing_task": True}
        assert found.wrappers == {"Delay": {"steps": 2}}
        assert spaces_of(data) == (spaces.Box(-9, 9, (4,), np.float64), ASYMMETRIC)
    assert "antigravity" not in sys.modules
    said = describe(data)
    for part in (
        'made with        {"maze_map":[[1,1,1,1]',
        'wrapped in       {"Delay"',
        "77 environment steps",
        "Box([-0.4",
    ):
        assert part in said
    model = rlopt.TD3BC("MlpPolicy", data, seed=0, batch_size=4, policy_kwargs={"net_arch": [8]}).learn(1)
    assert model.action_space == ASYMMETRIC  # +-0.4 stays +-0.4
    action, _ = model.predict(np.zeros((50, 4), np.float32))
    assert (action >= ASYMMETRIC.low).all() and (action <= ASYMMETRIC.high).all()


def test_the_arguments_come_back_from_minari_s_own_reader() -> None:
    env = gymnasium.make("MountainCarContinuous-v0", goal_velocity=0.01)
    rows = np.stack([np.linspace(-0.5, -0.4, 9), np.zeros(9)], axis=1).astype(np.float32)
    data = Dataset(
        observations=rows[:-1],
        actions=np.zeros((8, 1), np.float32),
        rewards=np.zeros(8, np.float32),
        next_observations=rows[1:],
        discounts=np.ones(8, np.float32),
        episode_ends=np.arange(8) == 7,
        metadata=Metadata(**made(EnvSettings("MountainCarContinuous-v0", env_kwargs={"goal_velocity": 0.01}))),
    )
    assert data.metadata.recorded_spaces() == (env.observation_space, env.action_space)
    assert data.metadata.max_episode_steps == 999
    write_minari(data, "mine/car-v0", pytest.fail)
    spec = minari.load_dataset("mine/car-v0").env_spec
    assert spec is not None and spec.kwargs == {"goal_velocity": 0.01}
    again = load_dataset("minari:mine/car-v0").metadata
    assert again == data.metadata and settings_of(again).env_kwargs == {"goal_velocity": 0.01}


def test_a_file_imports_nothing_and_names_no_files() -> None:
    with pytest.raises(ImportRefusedError, match="add --env antigravity:Fly-v0"):
        settings_of(Metadata("antigravity:Fly-v0"))
    assert "antigravity" not in sys.modules
    for value in ("../secret.xml", "os:system", {"a": ["x/y"]}):
        with pytest.raises(ConfigError, match="could name a file or a module"):
            settings_of(Metadata("Ant-v5", env_kwargs={"xml_file": value}))
    fine = {"maze_map": [[1, "r", 0], ["g", 0, "c"]], "reward_type": "sparse", "scale": 1.5, "flag": True}
    assert settings_of(Metadata("PointMaze_UMaze-v3", env_kwargs=fine)).env_kwargs == fine


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
@pytest.mark.parametrize("value", [{}, {"type": "Box"}, {"type": "os:system"}, [1], {"type": "Discrete", "n": -1}])
def test_malformed_spaces_are_one_line(name: str, value: Any) -> None:
    with pytest.raises(DataError, match="spaces are malformed"):
        Metadata("x", **{name: value})


def test_what_is_no_json_is_refused() -> None:
    for wrong in ({"f": len}, {"x": float("nan")}):
        with pytest.raises(DataError, match=r"env_kwargs is not JSON"):
            Metadata("x", env_kwargs=wrong)
    with pytest.raises(DataError, match="max_episode_steps"):
        Metadata("x", max_episode_steps=0)


def test_data_of_differently_made_environments_are_not_joined() -> None:
    box = encode_space(ASYMMETRIC)
    zeros, ends = np.zeros((2, 1), np.float32), np.array([False, True])
    metadata = Metadata("x", env_kwargs={"a": 1}, action_space=box)
    data = Dataset(zeros, np.zeros((2, 2), np.float32), zeros[:, 0], zeros, np.ones(2, np.float32), ends, metadata)
    other = dataclasses.replace(data, metadata=dataclasses.replace(data.metadata, env_kwargs={"a": 2}))
    assert Dataset.concatenate([data, data]).metadata.action_space == box
    with pytest.raises(DataError, match="data sets of env_kwargs"):
        Dataset.concatenate([data, other])


def test_recorded_settings_make_the_same_environment() -> None:
    settings = EnvSettings("Pendulum-v1", action_repeat=2, frame_stack=3, env_kwargs={"g": 9.0})
    env = rlopt.make_env(**settings.as_dict())
    fields = recorded(env.settings, env.observation_space, env.action_space)
    env.close()
    assert fields["wrappers"] == {"frame_stack": 3} and fields["max_episode_steps"] == 200
    assert settings_of(Metadata(**fields)) == settings
