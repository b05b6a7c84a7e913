"""``augment`` and the guides: what comes out, where it comes from, and what is refused."""

import dataclasses

import numpy as np
import pytest
from mazes import point_maze_data, point_maze_domain

from rlopt.agents.guda.augmentations import Augmentation, Reflect, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.generation import augment, with_source
from rlopt.agents.guda.guides import ShortestPath, quarter_of
from rlopt.agents.guda.maze_domains import AntMaze, PointMaze
from rlopt.data import Dataset, Metadata
from rlopt.envs.tasks.mazes import DIRECTIONS, Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES
from rlopt.errors import AugmentationError, ConfigError


def guide_for(data: Dataset) -> ShortestPath:
    return ShortestPath(Maze.from_id(data.metadata.env), FIXED_GOAL_MAZES[data.metadata.env].goal_cell)


def small_data(rows: np.ndarray, following: np.ndarray, ends: np.ndarray | None = None) -> Dataset:
    count = len(rows)
    if ends is None:
        ends = np.arange(count) == count - 1
    return Dataset(
        rows.astype(np.float32),
        np.zeros((count, 2), np.float32),
        np.zeros(count, np.float32),
        following.astype(np.float32),
        np.ones(count, np.float32),
        ends,
        Metadata("rlopt/PointMaze_UMaze-v0"),
    )


def test_quarter_of_is_the_nearest_multiple_of_90_degrees() -> None:
    angles = np.linspace(-3.1, 3.1, 97)
    assert np.array_equal(quarter_of(np.cos(angles), np.sin(angles)), np.round(angles / (np.pi / 2)).astype(int) % 4)


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
def test_provenance_rebuilds_every_row(name: str) -> None:
    data = point_maze_data(name)
    domain = point_maze_domain(data)
    made = augment(data, domain.augmentation(), guide_for(data), 3000, seed=2)
    assert len(made) == 3000 and made.episode_ends.all() and made.metadata.env == data.metadata.env
    assert made.metadata.seed == 2 and "shortest paths" in made.metadata.generator
    for row in range(0, 3000, 37):
        source = made.extras["source_row"][row]
        turn = np.round(np.exp(0.5j * np.pi * made.extras["quarter_turns"][row]))

        def turned(vector: np.ndarray, turn: complex = turn) -> np.ndarray:
            image = complex(*vector) * turn
            return np.array([image.real, image.imag])

        before, after = data.observations[source], data.next_observations[source]
        place = made.extras["position"][row]
        assert np.array_equal(made.observations[row, :2], place)
        assert np.allclose(made.next_observations[row, :2], place + turned(after[:2] - before[:2]), atol=1e-6)
        assert np.array_equal(made.observations[row, 2:], turned(before[2:]))
        assert np.array_equal(made.next_observations[row, 2:], turned(after[2:]))
        assert np.array_equal(made.actions[row], turned(data.actions[source]))


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
def test_guided_transitions_follow_a_shortest_path(name: str) -> None:
    data = point_maze_data(name)
    domain = point_maze_domain(data)
    goal_cell = FIXED_GOAL_MAZES[data.metadata.env].goal_cell
    guided = augment(data, domain.augmentation(), guide_for(data), 4000, seed=0)
    uniform = augment(data, domain.augmentation(), None, 4000, seed=0)
    distances = domain.maze.distances(goal_cell)

    def toward(made: Dataset) -> np.ndarray:
        """Whether the step's direction leads to a neighbouring cell that is nearer to the goal."""
        cells = domain.maze.xy_to_cell(made.observations[:, :2])
        angle = np.arctan2(*(made.next_observations - made.observations)[:, 1::-1].T)
        ahead = cells + np.array(DIRECTIONS)[np.round(angle / (np.pi / 2)).astype(int) % 4]
        here, there = distances[tuple(cells.T)], distances[tuple(ahead.T)]
        return (here == 0) | ((there >= 0) & (there == here - 1))

    assert toward(guided).all() and toward(uniform).mean() < 0.6
    cells = domain.maze.xy_to_cell(guided.observations[:, :2])
    assert set(map(tuple, cells)) == set(map(tuple, domain.maze.free_cells))


def test_a_tie_of_two_shortest_paths_uses_both() -> None:
    maze = Maze([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    domain = PointMaze(maze, maze.cell_to_xy((1, 2)))
    data = small_data(np.zeros((1, 4)), np.array([[0.01, 0, 1, 0]]))
    made = augment(data, domain.augmentation(), ShortestPath(maze, (1, 2)), 4000, seed=0)
    corner = (maze.xy_to_cell(made.observations[:, :2]) == (2, 1)).all(axis=1)
    turns = np.bincount(made.extras["quarter_turns"][corner], minlength=4)
    assert turns[2:].sum() == 0 and abs(turns[0] / turns.sum() - 0.5) < 0.06


def test_mirrored_segments_are_turned_to_the_path_too() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    made = augment(data, Augmentation(domain, Translate(), Rotate(), Reflect()), guide_for(data), 2000, seed=0)
    cells = domain.maze.xy_to_cell(made.observations[:, :2])
    headings = domain.maze.headings((1, 1))[tuple(cells.T)]
    step = made.next_observations - made.observations
    assert headings[np.arange(2000), quarter_of(step[:, 0], step[:, 1])].all()
    assert 0.4 < made.extras["mirror"].mean() < 0.6


def test_translation_alone_goes_where_the_own_direction_leads_to_the_goal() -> None:
    maze = Maze([[1] * 5, [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1] * 5], scale=4.0)
    rows = np.zeros((40, 29))
    rows[:, 3] = 1
    rows[:, :2] = maze.cell_to_xy((1, 2))
    following = rows.copy()
    following[:20, 0] += 0.1  # going right
    following[20:, 1] -= 0.1  # going down
    data = small_data(rows, following, np.ones(40, bool))
    data = Dataset(**{**data.columns(), "actions": np.zeros((40, 8), np.float32)}, metadata=data.metadata)
    domain = AntMaze(maze, maze.cell_to_xy((3, 1)))
    made = augment(data, domain.augmentation(), ShortestPath(maze, (3, 1)), 500, seed=0)
    right = made.extras["source_row"] < 20
    cells = maze.xy_to_cell(made.observations[:, :2])
    # Right leads on in the upper corridor, down at its end; both will do in the goal's cell.
    assert {tuple(cell) for cell in cells[right]} == {(1, 1), (1, 2), (3, 1)}
    assert {tuple(cell) for cell in cells[~right]} == {(1, 3), (2, 3), (3, 1)}


@pytest.mark.parametrize("length", [1, 5, None])
def test_segments_stay_within_one_episode_and_become_episodes(length: int | None) -> None:
    maze = Maze([[1] * 12, [1] + [0] * 10 + [1], [1] * 12])
    rows = np.zeros((12, 4))
    rows[:, 0] = np.arange(12) * 0.01
    following = rows.copy()
    following[:, 0] += 0.01
    ends = np.zeros(12, bool)
    ends[[6, 11]] = True
    data = small_data(rows, following, ends)
    domain = PointMaze(maze, maze.cell_to_xy((1, 1)))
    made = augment(data, Augmentation(domain, Translate()), None, 400, seed=0, segment_length=length)
    episodes = made.episodes()
    for episode in episodes[:-1]:
        source = made.extras["source_row"][episode]
        assert np.array_equal(np.diff(source), np.ones(len(source) - 1)) and (source < 7).all() | (source >= 7).all()
        assert len(source) in ({7, 5} if length is None else {length})
        assert (made.extras["position"][episode] == made.extras["position"][episode][0]).all()
        assert np.allclose(made.observations[episode][1:], made.next_observations[episode][:-1], atol=1e-6)
    if length == 5:
        assert {made.extras["source_row"][episode][0] for episode in episodes} == {0, 1, 2, 7}


def test_one_seed_gives_one_data_set() -> None:
    data = point_maze_data("umaze")
    augmentation = point_maze_domain(data).augmentation()
    first, again, other = (augment(data, augmentation, guide_for(data), 500, seed=seed) for seed in (0, 0, 1))
    assert first.observations.tobytes() == again.observations.tobytes() != other.observations.tobytes()
    assert np.array_equal(first.extras["source_row"], again.extras["source_row"])


def test_notes_on_columns_that_are_gone_are_gone() -> None:
    data = point_maze_data("umaze")
    notes = ("Rewards are for the goal in the extra column 'goal'.", "Rewards are 0 or 1.")
    data = dataclasses.replace(
        data,
        extras={"goal": np.zeros((len(data), 2), np.float32)},
        metadata=dataclasses.replace(data.metadata, notes=notes),
    )
    made = augment(data, point_maze_domain(data).augmentation(), None, 50, seed=0)
    assert "goal" not in made.extras and made.metadata.notes == notes[1:]


def test_with_source_marks_what_is_recorded() -> None:
    data = point_maze_data("umaze")
    made = augment(data, point_maze_domain(data).augmentation(), None, 50, seed=0)
    both = with_source(data, made)
    assert len(both) == len(data) + 50 and both.extras["augmented"].sum() == 50
    assert np.array_equal(both.extras["source_row"][: len(data)], np.arange(len(data)))
    assert np.array_equal(both.observations[len(data) :], made.observations)


def test_recorded_wall_contacts_are_no_source() -> None:
    rows = np.array([[-1.45, 1, 0, 0], [-1, 1, 0, 0]], np.float32)  # the first is 0.05 m from the wall
    data = small_data(rows, rows)
    made = augment(data, point_maze_domain(data).augmentation(), None, 100, seed=0)
    assert (made.extras["source_row"] == 1).all()
    touching = small_data(rows[:1], rows[:1])
    with pytest.raises(AugmentationError, match=r"0 of 1 transitions are usable.*within reach of a wall"):
        augment(touching, point_maze_domain(touching).augmentation(), None, 10)


def test_an_augmentation_without_valid_results_stops_with_the_reason() -> None:
    rows = np.array([[-1, 1, 0, 0]], np.float32)
    leaping = small_data(rows, rows + np.array([50, 0, 0, 0], np.float32))
    with pytest.raises(AugmentationError, match=r"0 valid segments in .* draws: .*within reach of a wall"):
        augment(leaping, point_maze_domain(leaping).augmentation(), None, 1000)

    def into_the_wall(augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> dict:
        return {**augmentation.sample(batch, generator), "position": np.full((batch.n_segments, 2), 1e6, np.float32)}

    still = small_data(rows, rows)
    with pytest.raises(AugmentationError, match="with into_the_wall gave 0 valid"):
        augment(still, point_maze_domain(still).augmentation(), into_the_wall, 10)


def test_bad_arguments_are_refused() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    for settings, message in (
        ({"n": 0}, "n must be"),
        ({"seed": -1}, "seed"),
        ({"segment_length": 0}, "segment_length"),
    ):
        with pytest.raises(ConfigError, match=message):
            augment(data, domain.augmentation(), None, **{"n": 10, **settings})
    with pytest.raises(AugmentationError, match=r"needs observations of 29 numbers .* has \(4,\)"):
        augment(data, AntMaze(Maze.from_id("AntMaze_UMaze-v5"), (0, 0)).augmentation(), None, 10)
    longest = max(rows.stop - rows.start for rows in data.episodes())
    with pytest.raises(AugmentationError, match=f"no episode of the data set has 5000 .*, the longest has {longest}:"):
        augment(data, domain.augmentation(), None, 10, segment_length=5000)
    with pytest.raises(ConfigError, match="guide Translate"):
        augment(data, Augmentation(domain, Rotate()), guide_for(data), 10)
    with pytest.raises(ConfigError, match="not a free cell"):
        ShortestPath(domain.maze, (0, 0))
    discrete = Dataset(**{**data.columns(), "actions": np.zeros(len(data), np.int64)}, metadata=data.metadata)
    with pytest.raises(AugmentationError, match="continuous actions"):
        augment(discrete, domain.augmentation(), None, 10)
