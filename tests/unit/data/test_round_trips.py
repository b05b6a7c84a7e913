"""Every kind of data set in every format that can hold it comes back as it was, with the environment that it is of."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.cli.main import main
from rlopt.data import Dataset, DemonstrationMetadata, Demonstrations, Metadata, load_dataset, load_demonstrations
from rlopt.data.environment import spaces_of
from rlopt.errors import DataError
from rlopt.storage.spaces import encode_space

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

N, ENDS, TERMINAL = 23, (8, 15, 22), (8,)
BOX = spaces.Box(np.array([-0.4, 0], np.float32), np.array([0.4, 2.5], np.float32))
"""Neither symmetric nor of unit size."""


def steps(make: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A walk's observations and successors, an episode of ``make``'s rows after the other."""
    walk, first = make(N + len(ENDS)), np.arange(N) + np.searchsorted(np.array(ENDS), np.arange(N))
    return walk[first], walk[first + 1]


def numbers(size: int) -> Callable[[int], np.ndarray]:
    return lambda rows: np.random.default_rng(size).normal(size=(rows, size)).astype(np.float32)


def image(rows: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (rows, 3, 8, 8), np.uint8)


def whole(rows: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 5, rows)


PARTS: dict[str, dict[str, Callable[[int], np.ndarray]]] = {
    "flat": {"": numbers(4)},
    "image": {"": image},
    "choice": {"": whole},
    "goal": {"observation": numbers(4), "achieved_goal": numbers(2), "desired_goal": numbers(3)},
    "nested": {"hand/pose": numbers(3), "hand/camera": image, "mode": whole},
}
SPACES: dict[str, spaces.Space] = {
    "flat": spaces.Box(-9, 9, (4,)),
    "image": spaces.Box(0, 255, (3, 8, 8), np.uint8),
    "choice": spaces.Discrete(5),
}
ACTIONS: dict[str, tuple[np.ndarray, spaces.Space]] = {
    "box": (np.random.default_rng(1).uniform(BOX.low, BOX.high, (N, 2)).astype(np.float32), BOX),
    "discrete": (np.random.default_rng(2).integers(0, 3, N), spaces.Discrete(3)),
    "multi": (np.random.default_rng(3).integers(0, 3, (N, 2)), spaces.MultiDiscrete([3, 4])),
}


def data_set(observations: str, actions: str, demonstrations: bool) -> Dataset:
    sides: list[Any] = []
    for side in (0, 1):
        parts = {key: steps(make)[side] for key, make in PARTS[observations].items()}
        sides.append(parts.get("", parts))
    fields: dict[str, Any] = {
        "env": "Unregistered-v0",
        "action_repeat": 2,
        "generator": "walk",
        "seed": 3,
        "reference_returns": (1.0, 2.5),
        "versions": {"numpy": "2"},
        "notes": ("a",),
        "env_kwargs": {"maze_map": [[1, "r"], [0, 1]], "reward_type": "sparse"},
        "wrappers": {"frame_stack": 2},
        "max_episode_steps": 300,
        "termination": "it fell",
        "reward": "1 at the goal",
        "action_space": encode_space(ACTIONS[actions][1]),
    }
    if observations in SPACES:
        fields["observation_space"] = encode_space(SPACES[observations])
    if demonstrations:
        fields |= {"observation_keys": ("a", "b"), "deterministic": True, "expert_return": 1.5}
    terminal = np.isin(np.arange(N), TERMINAL)
    columns = {
        "observations": sides[0],
        "actions": ACTIONS[actions][0],
        "rewards": np.random.default_rng(5).normal(size=N).astype(np.float32),
        "next_observations": sides[1],
        "discounts": 1 - terminal.astype(np.float32),
        "episode_ends": np.isin(np.arange(N), ENDS),
        "extras": {"source_row": np.arange(N), "qpos": numbers(3)(N)},
    }
    if demonstrations:
        return Demonstrations(**columns, metadata=DemonstrationMetadata(**fields))
    return Dataset(**columns, metadata=Metadata(**fields))


FORMS = {
    "rlopt": "out",
    "d4rl": "out.hdf5",
    "minari": "minari:mine/out-v0",
    "imitation": "out.npz",
    "valuedice": "out.npz",
    "hf": "out",
}
KINDS = [(name, "box") for name in PARTS] + [("flat", "discrete"), ("flat", "multi")]
FLAT_ONLY = ("imitation", "valuedice", "hf")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.mark.parametrize("demonstrations", [False, True], ids=["data", "demonstrations"])
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_data_comes_back_from_every_format(
    form: str, demonstrations: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    read = 0
    for observations, actions in KINDS:
        data = data_set(observations, actions, demonstrations)
        data.save("in")
        argv = ["data", "convert", "in", FORMS[form], "--format", form, "--overwrite"]
        if form in FLAT_ONLY and isinstance(data.observations, dict):
            assert main(argv) == 2 and "no dictionary observations" in capsys.readouterr().err
            continue
        assert main(argv) == 0, capsys.readouterr().err
        again = load_dataset(FORMS[form])
        ours, theirs = data.columns(), again.columns()
        if form in FLAT_ONLY:  # they hold demonstrations, without further columns
            data = Demonstrations.from_dataset(data)
            ours["extras"] = {}
        np.testing.assert_equal(theirs, ours)
        assert again.metadata == data.metadata and type(again) is type(data)
        assert again.actions.dtype == data.actions.dtype
        read += 1
    assert read == (5 if form in FLAT_ONLY else 7)


def test_the_sets_that_come_with_rlopt_convert(capsys: pytest.CaptureFixture[str]) -> None:
    data = load_demonstrations("dmc/cartpole-swingup")
    for out in ("x.hdf5", "x", "minari:mine/x-v0"):
        assert main(["data", "convert", "dmc/cartpole-swingup", out]) == 0
        assert main(["data", "info", out, "--picture", "picture.png"]) == 0, capsys.readouterr().err
        again = load_dataset(out)
        np.testing.assert_equal(again.columns(), data.columns())
        assert again.metadata == data.metadata
    low = spaces_of(data)[1].low  # type: ignore[attr-defined]
    assert low.tolist() == [-1.0]


def test_extra_places_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("flat", "box", False).save("in")
    assert main(["data", "convert", "in", "out.npz"]) == 0
    assert "has no place for source_row, qpos" in capsys.readouterr().err
    assert main(["data", "convert", "in", "out.csv"]) == 2
    assert main(["data", "convert", "in", "x", "--format", "npz"]) == 2
    assert main(["data", "convert", "in", "out.hdf5", "--format", "rlopt"]) == 2
    assert "is written to" in capsys.readouterr().err


def test_sets_of_version_0_1_are_read() -> None:
    """Its metadata had an action range and none of the environment's fields."""
    data = data_set("flat", "box", True)
    fields = dataclasses.asdict(data.metadata)
    new = ("env_kwargs", "wrappers", "max_episode_steps", "termination", "reward", "observation_space", "action_space")
    old = {name: value for name, value in fields.items() if name not in new}
    from rlopt.data.metadata import metadata_from

    read = metadata_from(old | {"action_range": [[-0.5, 0.0], [0.5, 3.0]]})
    assert isinstance(read, DemonstrationMetadata) and read.env == "Unregistered-v0" and read.env_kwargs == {}
    assert read.recorded_spaces()[1] == spaces.Box(np.array([-0.5, 0.0]), np.array([0.5, 3.0]), dtype=np.float32)
    with pytest.raises(DataError, match="other metadata"):
        metadata_from(old | {"action_bounds": 1})


def test_learners_take_the_recorded_bounds() -> None:
    import rlopt

    data = data_set("flat", "box", False)
    model = rlopt.BC("MlpPolicy", data, seed=0, batch_size=8, policy_kwargs={"net_arch": [8]}).learn(1)
    assert model.action_space == BOX and model.observation_space == SPACES["flat"]
    scaled = 2 * (data.actions - BOX.low) / (BOX.high - BOX.low) - 1
    np.testing.assert_allclose(model._data.actions.numpy(), scaled, atol=1e-6)
