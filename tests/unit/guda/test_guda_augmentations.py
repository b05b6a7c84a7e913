"""Augmentations against closed forms, row by row, and their parts against gymnasium-robotics."""

import math

import gymnasium
import numpy as np
import pytest
from mazes import point_maze_data, point_maze_domain

from rlopt.agents.guda.augmentations import Augmentation, Reflect, RelabelGoal, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain, Layout
from rlopt.agents.guda.maze_domains import AntMaze, PointMaze
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import AugmentationError, ConfigError


class Plane(Domain):
    """Everything a layout can have, without rules: a place, a second place, a velocity, an orientation, a turn rate."""

    name = "plane"
    layout = Layout(
        points=((0, 1), (2, 3)),
        vectors=((4, 5),),
        quaternions=(6,),
        action_vectors=((1, 2),),
        mirrored=(10,),
        mirrored_actions=(0,),
    )
    width = 12

    def valid(self, batch: Batch) -> np.ndarray:
        return np.abs(batch.observations[:, 0]) < 0.8

    def positions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.uniform(-5, 5, (count, 2)).astype(np.float32)

    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return batch.next_observations[:, 0] * 2, np.ones(len(batch), np.float32)


def random_batch(starts: list[int] | None = None, rows: int = 7) -> Batch:
    generator = np.random.default_rng(5)
    observations, following = generator.normal(size=(2, rows, 12))
    for side in (observations, following):
        side[:, 6:10] /= np.linalg.norm(side[:, 6:10], axis=1, keepdims=True)
    actions = generator.normal(size=(rows, 3))
    rewards = np.zeros(rows)
    return Batch(observations, actions, rewards, following, np.ones(rows), None if starts is None else np.array(starts))


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize("anchor", ["first", "last"])
def test_a_moved_segment_is_the_segment_under_one_isometry(anchor: str) -> None:
    batch = random_batch(starts=[0, 3, 4])
    augmentation = Augmentation(Plane(), Translate(), Rotate(), anchor=anchor)
    parameters = {"position": np.array([[1.0, 2], [-1, 0.5], [0, 0]]), "angle": np.array([0.3, -2.0, 3.0])}
    moved, valid = augmentation.apply(batch, parameters)
    segments = [range(3), range(3, 4), range(4, 7)]
    for segment, place, angle in zip(segments, parameters["position"], parameters["angle"], strict=True):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        yaw = np.eye(3)
        yaw[:2, :2] = turn
        pivot = batch.observations[segment[0], :2] if anchor == "first" else batch.next_observations[segment[-1], :2]
        for row in segment:
            for old, new in (
                (batch.observations[row], moved.observations[row]),
                (batch.next_observations[row], moved.next_observations[row]),
            ):
                assert np.allclose(new[:2], turn @ (old[:2] - pivot) + place, atol=1e-12)
                assert np.allclose(new[2:4], turn @ (old[2:4] - pivot) + place, atol=1e-12)
                assert np.allclose(new[4:6], turn @ old[4:6], atol=1e-12)
                assert np.allclose(rotation_matrix(new[6:10]), yaw @ rotation_matrix(old[6:10]), atol=1e-12)
                assert np.array_equal(new[10:], old[10:])
            assert np.allclose(moved.actions[row, 1:], turn @ batch.actions[row, 1:], atol=1e-12)
            assert moved.actions[row, 0] == batch.actions[row, 0]
    assert np.allclose(moved.rewards, 2 * moved.next_observations[:, 0])
    inside = np.abs(moved.observations[:, 0]) < 0.8
    assert valid.tolist() == [inside[list(segment)].all() for segment in segments] and 0 < inside.sum() < 7


def test_quarter_turns_are_free_of_rounding() -> None:
    batch = random_batch()
    augmentation = Augmentation(Plane(), Rotate(quarter=True))
    moved, _ = augmentation.apply(batch, {"quarter_turns": np.array([0, 1, 2, 3, 0, 1, 2], np.int8)})
    x, y = batch.observations[:, 4], batch.observations[:, 5]
    expected = [(x[0], y[0]), (-y[1], x[1]), (-x[2], -y[2]), (y[3], -x[3])]
    assert np.array_equal(moved.observations[:4, 4:6], expected)
    # Without a translation the anchor stays where it is.
    assert np.array_equal(moved.observations[:, :2], batch.observations[:, :2])


def test_a_mirror_flips_y_steering_and_turn_rates_and_comes_before_the_turn() -> None:
    batch = random_batch()
    mirror = np.array([True, False] * 3 + [True])
    sign = np.where(mirror, -1, 1)
    plane = Plane()
    plane.layout = Layout(points=((0, 1),), vectors=((4, 5),), mirrored=(10,), mirrored_actions=(0,))
    moved, _ = Augmentation(plane, Reflect()).apply(batch, {"mirror": mirror})
    assert np.array_equal(moved.observations[:, 5], sign * batch.observations[:, 5])
    assert np.array_equal(moved.observations[:, 10], sign * batch.observations[:, 10])
    assert np.array_equal(moved.actions[:, 0], sign * batch.actions[:, 0])
    assert np.array_equal(moved.observations[:, :2], batch.observations[:, :2])
    gap = batch.next_observations[:, 1] - batch.observations[:, 1]
    assert np.allclose(moved.next_observations[:, 1], batch.observations[:, 1] + sign * gap)
    both = Augmentation(plane, Rotate(quarter=True), Reflect())
    turned, _ = both.apply(batch, {"mirror": mirror, "quarter_turns": np.ones(7, np.int8)})
    assert np.array_equal(turned.observations[:, 4], -sign * batch.observations[:, 5])
    assert np.array_equal(turned.observations[:, 5], batch.observations[:, 4])


def test_uniform_parameters_cover_their_ranges() -> None:
    batch = random_batch(rows=4000)
    generator = np.random.default_rng(0)
    angles = Augmentation(Plane(), Rotate()).sample(batch, generator)["angle"]
    assert angles.dtype == np.float32 and np.abs(angles).max() <= np.float32(np.pi)
    assert np.allclose(np.histogram(angles, 8, (-np.pi, np.pi))[0], 500, atol=100)
    turns = Augmentation(Plane(), Rotate(quarter=True)).sample(batch, generator)["quarter_turns"]
    assert np.allclose(np.bincount(turns, minlength=4), 1000, atol=130)
    mirrors = Augmentation(Plane(), Reflect(0.25)).sample(batch, generator)["mirror"]
    assert abs(mirrors.mean() - 0.25) < 0.03


def test_point_maze_positions_are_uniform_over_the_free_cells() -> None:
    domain = point_maze_domain(point_maze_data("umaze"))
    cells = domain.maze.xy_to_cell(domain.positions(np.random.default_rng(0), 7000))
    counts = np.bincount(domain.maze.free_index[cells[:, 0], cells[:, 1]])
    assert len(counts) == 7 and np.allclose(counts, 1000, atol=130)


@pytest.mark.parametrize("dense", [False, True])
def test_rewards_and_ends_are_the_environments_own(dense: bool) -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data, dense=dense, continuing=False)
    augmentation = domain.augmentation()
    generator = np.random.default_rng(0)
    batch = Batch(data.observations, data.actions, data.rewards, data.next_observations, data.discounts)
    moved, valid = augmentation.augment(batch, generator)
    env = gymnasium.make(f"PointMaze_UMaze{'Dense' * dense}-v3", continuing_task=False).unwrapped
    theirs = env.compute_reward(moved.next_observations[:, :2].astype(np.float64), np.array([-1.0, 1.0]), {})
    assert np.allclose(moved.rewards, theirs, atol=1e-6) and 0 < moved.rewards.mean() < 1
    ends = [env.compute_terminated(row[:2], np.array([-1.0, 1.0]), {}) for row in moved.next_observations]
    assert np.array_equal(moved.discounts == 0, ends) and any(ends)
    assert 0.5 < valid.mean() < 1


def test_only_states_that_touch_no_wall_are_valid() -> None:
    data = point_maze_data("medium")
    domain = point_maze_domain(data)
    batch = Batch(data.observations, data.actions, data.rewards, data.next_observations, data.discounts)
    moved, valid = domain.augmentation().augment(batch, np.random.default_rng(1))
    centres = domain.maze.cell_to_xy(np.argwhere(domain.maze.walls))
    for side in (moved.observations, moved.next_observations):
        gaps = np.abs(side[valid, None, :2] - centres).max(axis=2).min(axis=1)
        assert gaps.min() >= 0.605 - 1e-6
    assert not valid.all()


def test_relabelled_goals_are_observed_and_rewarded() -> None:
    maze = Maze([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    domain = PointMaze(maze, (0, 0), goal_in_observation=True)
    rows = np.tile(np.array([0, 0, 0, 0, 1, 0], np.float32), (3, 1))
    batch = Batch(rows, np.zeros((3, 2), np.float32), np.zeros(3, np.float32), rows.copy(), np.ones(3, np.float32))
    goals = np.array([[0.3, 0], [0, 0.46], [-1, 0]], np.float32)
    moved, _ = Augmentation(domain, RelabelGoal()).apply(batch, {"goal": goals})
    assert np.array_equal(moved.observations[:, 4:], goals) and np.array_equal(moved.next_observations[:, 4:], goals)
    assert moved.rewards.tolist() == [1, 0, 0] and np.array_equal(batch.observations[:, 4:], rows[:, 4:])


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((Rotate(quarter=False),), "multiples of 90 degrees only: the bounds"),
        ((RelabelGoal(),), "cannot be relabelled"),
        ((), "one or more operations"),
        ((Translate(), Translate()), "at most once"),
    ],
)
def test_impossible_operations_are_refused(operations: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(point_maze_domain(point_maze_data("umaze")), *operations)


def test_wrong_parameters_are_refused() -> None:
    augmentation = Augmentation(Plane(), Translate())
    with pytest.raises(AugmentationError, match=r"parameters \['angle'\]"):
        augmentation.apply(random_batch(), {"angle": np.zeros(7)})
    with pytest.raises(AugmentationError, match="3 entries for 7 segments"):
        augmentation.apply(random_batch(), {"position": np.zeros((3, 2))})
    with pytest.raises(AugmentationError, match="NaN or infinity"):
        augmentation.apply(random_batch(), {"position": np.full((7, 2), np.nan)})
    with pytest.raises(AugmentationError, match=r"shape \(7, 3\)"):
        augmentation.apply(random_batch(), {"position": np.zeros((7, 3))})
    with pytest.raises(ConfigError, match="anchor"):
        Augmentation(Plane(), Translate(), anchor="middle")
    with pytest.raises(ConfigError, match="probability"):
        Reflect(1.5)


def test_a_rotation_takes_the_most_that_is_exact_and_serves_several_domains() -> None:
    rotate = Rotate()
    maze = Maze.from_id("AntMaze_UMaze-v5")
    assert Augmentation(Plane(), rotate).columns == ("angle",)
    assert Augmentation(point_maze_domain(point_maze_data("umaze")), rotate).columns == ("quarter_turns",)
    ant = Augmentation(AntMaze(maze, (0, 0)), rotate)
    assert ant.columns == ("quarter_turns",) and ant.inexact_because is None
    assert Augmentation(AntMaze(maze, (0, 0)), Rotate(quarter=False)).inexact_because is not None
