"""Demonstrations: choosing episodes, subsampling, images, what they fit, and the folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demonstration_data import walk, with_images
from gymnasium import spaces

import rlopt
from rlopt.agents.ailboost.config import AILBoostConfig
from rlopt.data import Dataset, Demonstrations, Metadata, load_dataset, load_demonstrations
from rlopt.data.formats.imitation_files import write_imitation
from rlopt.data.loading import SETS, demonstration_names
from rlopt.envs.observation_order import observation_keys
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError, UnknownNameError
from rlopt.runs.demonstrations import complete
from rlopt.settings.run import RunConfig
from rlopt.storage.spaces import encode_space


def firsts(data: Demonstrations) -> list[float]:
    """The first number of each observation."""
    assert isinstance(data.observations, np.ndarray)
    return data.observations[:, 0].tolist()


def test_the_first_episodes_are_taken_whole() -> None:
    data = walk((2, 3, 4))
    assert data.n_trajectories == 3
    two = data.trajectories(2)
    assert firsts(two) == [0, 1, 100, 101, 102] and two.n_trajectories == 2
    assert two.discounts.tolist() == [1, 0, 1, 1, 1]
    assert two.metadata == data.metadata


def test_drawn_episodes_are_whole_different_and_the_seed_s() -> None:
    data = walk(tuple(range(1, 11)))
    chosen = set()
    for seed in range(20):
        drawn = data.trajectories(3, seed=seed)
        numbers = [int(first // 100) for first in firsts(drawn)]
        assert numbers == sorted(numbers) and len(set(numbers)) == 3
        assert [numbers.count(number) for number in sorted(set(numbers))] == [n + 1 for n in sorted(set(numbers))]
        assert firsts(data.trajectories(3, seed=seed)) == firsts(drawn)
        assert set(firsts(data.trajectories(2, seed=seed))) < set(firsts(drawn))
        chosen |= set(numbers)
    assert chosen == set(range(10))


def test_more_demonstrations_than_there_are_is_one_line_with_the_number() -> None:
    with pytest.raises(DataError, match=r"3 demonstrations were asked for and there are 2: .*--n-trajectories 3"):
        walk().trajectories(3)
    with pytest.raises(DataError, match="at least 1"):
        walk().trajectories(0)


def test_subsampling_keeps_every_so_manyeth_row_and_the_terminal() -> None:
    data = walk((5, 7), terminal=(0,))
    thin = data.subsample(3)
    assert firsts(thin) == [0, 3, 4, 100, 103, 106]
    assert thin.episode_ends.tolist() == [False, False, True, False, False, True]
    assert thin.discounts.tolist() == [1, 1, 0, 1, 1, 1]
    assert thin.next_observations[:, 0].tolist() == [1, 4, 5, 101, 104, 107]  # type: ignore[index]
    assert thin.metadata.subsample_rate == 3 and thin.subsample(2).metadata.subsample_rate == 6
    assert thin.metadata.expert_return == data.metadata.expert_return
    assert thin.trajectories(1).n_trajectories == 1 and firsts(thin.trajectories(1)) == [0, 3, 4]
    np.testing.assert_equal(data.subsample(1).columns(), data.columns())
    with pytest.raises(DataError, match="at least 1"):
        data.subsample(0)


def test_subsampling_begins_anywhere_by_seed_and_leaves_no_episode_empty() -> None:
    data = walk((2, 50), terminal=())
    offsets = set()
    for seed in range(40):
        thin = data.subsample(10, seed=seed)
        assert thin.n_trajectories == 2
        second = [first - 100 for first in firsts(thin) if first >= 100]
        assert second == list(range(int(second[0]), 50, 10)) and second[0] < 10
        assert firsts(data.subsample(10, seed=seed)) == firsts(thin)
        offsets.add(second[0])
    assert offsets == set(range(10))


def test_images_become_stacked_observations() -> None:
    data = with_images(walk((2, 4))).from_pixels(3)
    assert isinstance(data.observations, np.ndarray) and isinstance(data.next_observations, np.ndarray)
    assert data.observations.shape == (6, 9, 2, 2) and data.observations.dtype == np.uint8
    seen = data.observations[:, ::3, 0, 0].tolist()
    assert seen == [[0, 0, 0], [0, 0, 1], [2, 2, 2], [2, 2, 3], [2, 3, 4], [3, 4, 5]]
    following = data.next_observations[:, ::3, 0, 0].tolist()
    assert following == [[0, 0, 1], [0, 1, 2], [2, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    assert data.metadata.observation_keys == ("pixels",) and not data.extras
    with pytest.raises(DataError, match="--pixels"):
        walk().from_pixels()
    thin = with_images(walk()).subsample(2)
    assert len(thin.from_pixels(1)) == len(thin)
    with pytest.raises(DataError, match="before subsample"):
        thin.from_pixels(3)


@pytest.mark.parametrize("data", [walk(), with_images(walk((3, 2))), walk(observation_keys=("a", "b"), seed=4)])
def test_a_saved_folder_reads_back_as_demonstrations(data: Demonstrations, tmp_path: Path) -> None:
    data.save(tmp_path / "x")
    for again in (
        load_dataset(tmp_path / "x"),
        load_demonstrations(tmp_path / "x"),
        Demonstrations.load(tmp_path / "x"),
    ):
        assert type(again) is Demonstrations
        np.testing.assert_equal(again.columns(), data.columns())
        assert again.metadata == data.metadata


def test_a_plain_data_set_stays_one_and_can_be_taken_as_an_expert_s(tmp_path: Path) -> None:
    columns = walk((5, 7)).columns()
    Dataset(**columns, metadata=Metadata(env="Walk-v0", seed=3)).save(tmp_path / "x")
    assert type(load_dataset(tmp_path / "x")) is Dataset
    taken = load_demonstrations(tmp_path / "x")
    assert taken.metadata.seed == 3 and taken.metadata.expert_return == (10 + 21) / 2
    with pytest.raises(DataError, match="from_dataset"):
        Demonstrations(**columns, metadata=Metadata(env="Walk-v0"))  # type: ignore[arg-type]


def test_demonstrations_are_data_sets_by_their_names_too(tmp_path: Path) -> None:
    """So that rlopt train bc --dataset takes them."""
    shipped = load_dataset("dmc/cartpole-swingup")
    assert isinstance(shipped, Demonstrations)
    assert np.array_equal(shipped.actions, load_demonstrations("dmc/cartpole-swingup").actions)
    write_imitation(walk((2, 3)), tmp_path / "walk.npz")
    assert len(load_dataset(tmp_path / "walk.npz")) == 5
    with pytest.raises(UnknownNameError, match="did you mean 'dmc/cartpole-swingup'"):
        load_dataset("dmc/cartpole-swing")
    with pytest.raises(DataError, match="says itself which environment"):
        load_dataset("dmc/cartpole-swingup", env="CartPole-v1")


def test_the_environment_is_that_of_the_demonstrations_and_another_action_repeat_is_refused() -> None:
    asked = AILBoostConfig(demos="dmc/cartpole-swingup")
    run, _ = complete(RunConfig(), asked)
    assert (run.env, run.action_repeat) == ("dm_control/cartpole-swingup", 2)
    with pytest.raises(ConfigError, match="give --action-repeat 2"):
        complete(RunConfig(action_repeat=4), asked)


def test_the_environment_is_made_as_it_was_recorded(tmp_path: Path) -> None:
    place = walk(env="Pendulum-v1", env_kwargs={"g": 9.5}).save(tmp_path / "demos")
    run, _ = complete(RunConfig(), AILBoostConfig(demos=str(place)))
    assert (run.env, run.env_kwargs) == ("Pendulum-v1", '{"g":9.5}')
    given, _ = complete(RunConfig(env_kwargs='{"g": 1}'), AILBoostConfig(demos=str(place)))
    assert given.env_kwargs == '{"g": 1}'


def test_parts_are_joined_where_they_belong_together() -> None:
    parts = [walk((5,), deterministic=True), walk((3, 3), deterministic=False)]
    joined = Demonstrations.concatenate(parts)
    assert joined.n_trajectories == 3 and joined.metadata.deterministic is None
    assert joined.metadata.expert_return == pytest.approx((10 + 3 + 3) / 3)
    plain = Dataset.concatenate(parts)
    assert type(plain) is Dataset and type(plain.metadata) is Metadata
    with pytest.raises(DataError, match="observation_keys"):
        Demonstrations.concatenate([walk(observation_keys=("a",)), walk(observation_keys=("b",))])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observation_keys", ("",)),
        ("observation_keys", "abc"),
        ("deterministic", 1),
        ("expert_return", float("nan")),
        ("has_rewards", None),
        ("spaces", {"type": "Ball"}),
        ("subsample_rate", 0),
    ],
)
def test_metadata_that_make_no_sense_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"metadata.*{field}"):
        walk(**{"action_space" if field == "spaces" else field: value})


# What they fit: cartpole-swingup has 5 numbers (position 3, velocity 2) and one action in [-1, 1].
SETTINGS = EnvSettings(id="dm_control/cartpole-swingup", action_repeat=2)
SPACES = (spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Box(-1, 1, (1,), np.float32))


def cartpole(**fields: Any) -> Demonstrations:
    known = {"env": SETTINGS.id, "action_repeat": 2, "observation_keys": ("position", "velocity")}
    data = walk(**{**known, "action_space": encode_space(SPACES[1]), **fields})
    wide = np.zeros((len(data), 5), np.float32)
    return dataclasses.replace(data, observations=wide, next_observations=wide)


def test_demonstrations_of_the_environment_fit_it() -> None:
    cartpole().check_fits(SETTINGS, *SPACES)
    cartpole(observation_keys=(), action_space=None).check_fits(SETTINGS, *SPACES)
    cartpole(env="unknown", action_repeat=1).check_fits(SETTINGS, *SPACES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (cartpole(env="dm_control/cartpole-balance"), "--env dm_control/cartpole-balance"),
        (cartpole(action_repeat=4), "--action-repeat 4"),
        (cartpole(observation_keys=("velocity", "position")), "velocity, position in this order.*position, velocity"),
        (walk(env=SETTINGS.id, action_repeat=2), r"shape \(2,\).*\(5,\)"),
        (dataclasses.replace(cartpole(), actions=np.full((12, 1), 1.5, np.float32)), "out of bounds in 12 of 12"),
        (dataclasses.replace(cartpole(), actions=np.zeros((12, 2), np.float32)), r"actions have shape \(2,\)"),
        (cartpole(action_space=encode_space(spaces.Box(-2, 2, (1,)))), r"range from \[-2.\] to \[2.\]"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_cure(data: Demonstrations, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        data.check_fits(SETTINGS, *SPACES)
    assert "\n" not in str(caught.value)


def test_the_order_of_observations_is_the_environment_s() -> None:
    assert observation_keys(EnvSettings(id="dm_control/walker-walk")) == ("orientations", "height", "velocity")
    assert observation_keys(EnvSettings(id="dm_control/walker-walk", from_pixels=True)) == ("pixels",)
    assert observation_keys(EnvSettings(id="CartPole-v1")) == ()
    assert observation_keys(EnvSettings(id="rlopt/PointMaze_UMaze-v0")) == ("observation",)


def test_observations_of_another_order_are_reordered() -> None:
    """Walker-walk has 14 orientations, a height and 9 velocities; the alphabet puts the height first."""
    alphabetical = np.concatenate(([14], np.arange(14), np.arange(15, 24)))  # what is at each place, in our numbers
    data = walk((3,), env="dm_control/walker-walk", observation_keys=("height", "orientations", "velocity"))
    seen = (100 * np.arange(3)[:, None] + alphabetical).astype(np.float32)
    data = dataclasses.replace(data, observations=seen, next_observations=seen + 100)
    ours = data.reorder(EnvSettings(id="dm_control/walker-walk"))
    expected = (100 * np.arange(3)[:, None] + np.arange(24)).astype(np.float32)
    np.testing.assert_array_equal(ours.observations, expected)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours.next_observations, expected + 100)  # type: ignore[arg-type]
    assert ours.metadata.observation_keys == ("orientations", "height", "velocity")
    with pytest.raises(DataError, match="--observation-keys"):
        data.reorder(SETTINGS)
    with pytest.raises(DataError, match="not 24 numbers"):
        dataclasses.replace(data, observations=seen[:, :5], next_observations=seen[:, :5]).reorder(
            EnvSettings(id="dm_control/walker-walk")
        )


def test_the_shipped_sets_are_small_and_what_they_say() -> None:
    tasks = ("ball_in_cup-catch", "cartpole-swingup", "walker-walk", "cheetah-run")
    assert set(demonstration_names()) == {f"dmc/{task}" for task in tasks}
    assert sum(path.stat().st_size for path in SETS.rglob("*")) <= 2 * 10**6
    with pytest.raises(UnknownNameError, match="did you mean 'dmc/cartpole-swingup'"):
        load_demonstrations("dmc/cartpole-swing")


@pytest.mark.parametrize("name", demonstration_names())
def test_a_shipped_set_replays_in_its_environment(name: str) -> None:
    data = load_demonstrations(name)
    metadata = data.metadata
    assert metadata.env == f"dm_control/{name.removeprefix('dmc/')}" and metadata.deterministic
    assert metadata.expert_return == pytest.approx(data.episode_returns().mean(), rel=1e-6)
    assert metadata.expert_return is not None and metadata.expert_return > 500
    assert json.dumps(dict(metadata.versions)) and metadata.seed == 0
    settings = EnvSettings(id=metadata.env, action_repeat=metadata.action_repeat, backend="gymnasium", seed=0)
    env = rlopt.make_env(**settings.as_dict())
    data.check_fits(settings, env.observation_space, env.action_space)
    assert isinstance(data.observations, np.ndarray)
    # Loose for other versions of MuJoCo and other processors, whose trajectories drift apart after a while.
    np.testing.assert_allclose(env.reset()[0], data.observations[0], atol=1e-4)
    for step in range(50):
        observations, rewards, _, _ = env.step(data.actions[step : step + 1])
        np.testing.assert_allclose(observations[0], data.observations[step + 1], rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(rewards[0], data.rewards[step], atol=1e-2)
    env.close()
