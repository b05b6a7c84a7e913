"""Maze data as they come: D4RL's names, own maps, several goals, ends at the goal, and steps against walls."""

import dataclasses
import sys

import gymnasium
import numpy as np
import pytest
from mazes import point_maze_data, point_maze_domain

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.domains import Domain
from rlopt.agents.guda.generation import augment
from rlopt.agents.guda.goal_domains import Parking
from rlopt.agents.guda.guides import ShortestPath, quarter_of
from rlopt.agents.guda.simulators import point_maze_simulator
from rlopt.agents.guda.tasks import make_augmented, set_up
from rlopt.agents.offline.config import TD3BCConfig
from rlopt.agents.offline.run import training_data
from rlopt.cli.main import main
from rlopt.data import Dataset, Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import AugmentationError, ConfigError, ImportRefusedError

pytest.importorskip("gymnasium_robotics")

OWN_MAP = [[1] * 6, [1, 0, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1], [1, 0, 1, 1, "g", 1], [1] * 6]


def wall_distance(maze: Maze, points: np.ndarray) -> np.ndarray:
    """From each point to the nearest wall, by all of them in turn."""
    centres = maze.cell_to_xy(np.argwhere(maze.walls))
    gaps = np.maximum(np.abs(points[:, None, :] - centres) - maze.scale / 2, 0)
    return np.linalg.norm(gaps, axis=2).min(axis=1)


def rows_in(env_id: str, states: np.ndarray, following: np.ndarray, actions: int, **columns: np.ndarray) -> Dataset:
    count = len(states)
    made = {
        "observations": states.astype(np.float32),
        "actions": np.zeros((count, actions), np.float32),
        "rewards": np.zeros(count, np.float32),
        "next_observations": following.astype(np.float32),
        "discounts": np.ones(count, np.float32),
        "episode_ends": np.arange(count) == count - 1,
    }
    generation = "d4rl" if "maze2d" in env_id or env_id.startswith("antmaze") else "rlopt"
    return Dataset(**(made | columns), metadata=Metadata(env_id, generation=generation))


@pytest.fixture(scope="module")
def simulated() -> tuple[Dataset, Domain]:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    guide = ShortestPath(domain.maze, (1, 1))
    return augment(data, domain.augmentation(), guide, 4000, seed=0, segment_length=8, simulated=0.5), domain


def test_simulated_steps_begin_at_rest_and_touch_walls(simulated) -> None:
    made, domain = simulated
    ours = made.extras["simulated"]
    assert ours.sum() == 2000 and ours[2000:].all()
    first = np.concatenate(([True], made.episode_ends[:-1])) & ours
    assert (made.observations[first, 2:] == 0).all() and first.sum() == 250
    distance = wall_distance(domain.maze, made.observations[:, :2].astype(np.float64))
    # The ball's radius is 0.1; contacts press it into a wall by less than 2 cm.
    assert (distance[~ours] > 0.104).all() and distance[ours].min() > 0.08
    assert 0.2 < (distance[ours] < 0.104).mean() < 0.6 and (distance[first] > 0.2).mean() > 0.2


def test_simulated_steps_are_the_simulators(simulated) -> None:
    made, domain = simulated
    simulator = point_maze_simulator(domain)
    first = np.concatenate(([True], made.episode_ends[:-1]))
    for row in range(2000, 4000, 23):
        following, reward = simulator.transition(made.observations[row], made.actions[row])
        # Contacts amplify the rounding of states within a segment; its first state is exact in float32.
        assert np.allclose(made.next_observations[row], following, atol=1e-6 if first[row] else 1e-4)
        assert reward == made.rewards[row]


def test_guided_simulated_steps_are_pushed_along_the_path(simulated) -> None:
    made, domain = simulated
    for episode in [rows for rows in made.episodes() if made.extras["simulated"][rows.start]]:
        push = made.actions[episode].sum(axis=0, keepdims=True)
        row, column = domain.maze.xy_to_cell(made.extras["position"][episode.start])
        assert domain.maze.headings((1, 1))[row, column, quarter_of(*push.T)].all()


def test_only_point_mazes_are_simulated() -> None:
    rows = np.zeros((4, 12), np.float32)
    rows[:, 4] = rows[:, 10] = 1
    data = rows_in("parking-v0", rows, rows, 2)
    with pytest.raises(ConfigError, match=r"cannot be simulated from rest.*--simulated 0"):
        make_augmented(data, GuDAConfig(n=10, simulated=0.1))
    assert set_up(data, GuDAConfig()).simulated == 0 and isinstance(
        set_up(data, GuDAConfig()).augmentation.domain, Parking
    )


def test_each_goal_has_its_own_paths() -> None:
    flat = point_maze_data("medium")
    goals = np.random.default_rng(0).uniform(-1, 1, (len(flat), 2)).astype(np.float32)
    columns = flat.columns() | {"extras": {}}
    for name in ("observations", "next_observations"):
        columns[name] = {"observation": columns[name], "achieved_goal": columns[name][:, :2], "desired_goal": goals}
    data = Dataset(**columns, metadata=dataclasses.replace(flat.metadata, env="PointMaze_Medium-v3"))
    made = make_augmented(data, GuDAConfig(n=8000, simulated=0.0, segment_length=1))
    maze = Maze.from_id("PointMaze_Medium-v3")
    wanted = maze.xy_to_cell(made.observations["desired_goal"])
    assert {tuple(cell) for cell in wanted} == {tuple(cell) for cell in maze.free_cells}
    here = maze.xy_to_cell(made.observations["observation"][:, :2])
    step = made.next_observations["observation"] - made.observations["observation"]
    heading = quarter_of(step[:, 0], step[:, 1])
    for row in range(0, 8000, 7):
        assert maze.headings(wanted[row])[(*here[row], heading[row])]
    gap = made.next_observations["achieved_goal"] - made.observations["desired_goal"]
    assert np.array_equal(made.rewards, np.linalg.norm(gap, axis=1) <= 0.45)


def ending_at_the_goal() -> Dataset:
    """Steps to the right along the upper corridor of UMaze; those within 0.45 m of (-1, 1) are terminal."""
    x = np.repeat(np.linspace(-1.35, 1.3, 40), 3)
    states = np.stack((x, np.ones_like(x), np.ones_like(x), 0 * x), axis=1)
    following = states + np.array([0.01, 0, 0, 0])
    terminal = np.abs(following[:, 0] + 1) <= 0.45
    return rows_in(
        "rlopt/PointMaze_UMaze-v0",
        states,
        following,
        2,
        discounts=(~terminal).astype(np.float32),
        episode_ends=np.ones(len(x), bool),
    )


def test_episodes_that_end_at_the_goal_end_there_after_moving() -> None:
    data = ending_at_the_goal()
    made = make_augmented(data, GuDAConfig(n=2000))
    arrived = np.linalg.norm(made.next_observations[:, :2] - [-1, 1], axis=1) <= 0.45
    assert arrived.sum() > 100 and np.array_equal(made.discounts == 0, arrived) and made.episode_ends[arrived].all()
    elsewhere = make_augmented(data, GuDAConfig(n=2000, goal_cell=(3, 1)))
    arrived = np.linalg.norm(elsewhere.next_observations[:, :2] - [-1, -1], axis=1) <= 0.45
    assert arrived.sum() > 100 and np.array_equal(elsewhere.discounts == 0, arrived)
    going_on = make_augmented(point_maze_data("umaze"), GuDAConfig(n=2000))
    assert going_on.rewards.sum() > 100 and (going_on.discounts == 1).all()


def test_terminals_away_from_the_goal_are_refused() -> None:
    data = ending_at_the_goal()
    goal = np.tile(np.array([1, 1], np.float32), (len(data), 1))
    data = dataclasses.replace(data, extras={"goal": goal})
    with pytest.raises(
        AugmentationError, match=r"36 of 36 terminal transitions end away from the goal, first in row 0"
    ):
        make_augmented(data, GuDAConfig(n=10))


def test_segments_keep_their_order_so_that_the_next_action_is_known() -> None:
    made = make_augmented(point_maze_data("umaze"), GuDAConfig(n=4000))
    known = ~made.episode_ends
    assert known.mean() >= 7 / 8 - 0.001
    inside = np.flatnonzero(known)
    assert np.allclose(made.next_observations[inside], made.observations[inside + 1], atol=1e-5)
    assert (made.extras["source_row"][inside + 1] == made.extras["source_row"][inside] + 1).all()


def test_the_best_tenth_of_augmented_data_comes_from_the_best_recorded_episodes() -> None:
    from rlopt.data.filtering import filter_episodes

    data = point_maze_data("umaze")
    ends = np.zeros(len(data), bool)
    ends[79::80] = True
    rewards = np.zeros(len(data), np.float32)
    rewards[240:320] = 1  # the fourth of ten episodes
    data = dataclasses.replace(data, episode_ends=ends, rewards=rewards)
    for include_source in (False, True):
        best = filter_episodes(make_augmented(data, GuDAConfig(n=20000, include_source=include_source)), best=0.08)
        source = best.extras["source_row"]
        assert len(best) > 1000 and ((source >= 240) & (source < 320)).all()


def test_maze2d_names_become_our_maze(tmp_path) -> None:
    flat = point_maze_data("umaze")

    # D4RL's x is the row and its y the column: (1, 1) is the goal at (-1, 1) of ours.
    def theirs(rows: np.ndarray) -> np.ndarray:
        return np.stack((1.8 - rows[:, 1], rows[:, 0] + 1.8, -rows[:, 3], rows[:, 2]), axis=1)

    states, following = theirs(flat.observations), theirs(flat.next_observations)
    data = rows_in("maze2d-umaze-v1", states, following, 2, episode_ends=flat.episode_ends)
    data = dataclasses.replace(
        data, actions=np.ascontiguousarray(flat.actions[:, ::-1] * np.array([-1, 1], np.float32))
    )
    made = make_augmented(data, GuDAConfig(n=500, seed=3, simulated=0.0))
    expected = make_augmented(flat, GuDAConfig(n=500, seed=3, simulated=0.0))
    assert made.metadata.env == "rlopt/PointMaze_UMaze-v0" and "mapped from maze2d-umaze-v1" in made.metadata.notes[0]
    assert np.allclose(made.observations, expected.observations, atol=1e-5)
    assert np.allclose(made.actions, expected.actions, atol=1e-6)
    learn = TD3BCConfig(dataset=str(data.save(tmp_path / "theirs")), augment="guda", n_augmented=100)
    assert training_data(learn, 0, EnvSettings("maze2d-umaze-v1")).metadata.env == "rlopt/PointMaze_UMaze-v0"


@pytest.mark.parametrize(("name", "goal"), [("umaze", (0, 8)), ("medium-diverse", (20, 20)), ("large-play", (32, 24))])
def test_antmaze_names_are_augmented_in_d4rls_frame(name: str, goal: tuple[int, int]) -> None:
    rows = np.zeros((16, 29))
    rows[:, 3] = 1
    following = rows.copy()
    following[:8, 0] += 0.1
    following[8:, 1] += 0.1
    data = rows_in(f"antmaze-{name}-v2", rows, following, 8, episode_ends=np.arange(16) % 8 == 7)
    made = make_augmented(data, GuDAConfig(n=1000, segment_length=1))
    arrived = np.linalg.norm(made.next_observations[:, :2] - goal, axis=1) <= 0.5
    assert np.array_equal(made.rewards, arrived) and np.array_equal(made.discounts == 0, arrived) and arrived.any()
    noisy = np.tile(np.array(goal, np.float32) + 0.75, (16, 1))  # where the file records it
    recorded = make_augmented(dataclasses.replace(data, extras={"goal": noisy}), GuDAConfig(n=1000, segment_length=1))
    arrived = np.linalg.norm(recorded.next_observations[:, :2] - noisy[0], axis=1) <= 0.5
    assert np.array_equal(recorded.rewards, arrived) and arrived.any()
    base = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}[name.split("-")[0]]
    walls = Maze.from_id(f"AntMaze_{base}-v5").walls
    column, row = (np.round(made.observations[:, :2] / 4).astype(int) + 1).T
    assert not walls[row, column].any() and made.metadata.env == f"antmaze-{name}-v2"
    if name == "umaze":  # to the right in the row of the start, then up: the goal lies above the start
        right = made.extras["source_row"] < 8
        assert set(zip(row[right], column[right], strict=True)) == {(1, 1), (1, 2), (3, 1)}
        assert set(zip(row[~right], column[~right], strict=True)) == {(1, 3), (2, 3), (3, 1)}


@pytest.fixture
def own_maze():
    gymnasium.register(
        "test/OwnMaze-v0",
        entry_point="gymnasium_robotics.envs.maze.point_maze:PointMazeEnv",
        kwargs={"maze_map": OWN_MAP, "reward_type": "dense"},
    )
    yield "test/OwnMaze-v0"
    del gymnasium.registry["test/OwnMaze-v0"]


def test_a_registered_maze_of_ones_own_is_augmented(own_maze: str) -> None:
    maze = Maze(OWN_MAP)
    x = np.linspace(-1.2, 1.2, 64)
    states = np.stack((x, np.ones_like(x), np.ones_like(x), 0 * x), axis=1)
    data = rows_in(own_maze, states, states + np.array([0.01, 0, 0, 0]), 2)
    made = make_augmented(data, GuDAConfig(n=2000))
    assert (wall_distance(maze, made.observations[:, :2].astype(np.float64)) > 0.08).all()
    distance = np.linalg.norm(made.next_observations[:, :2] - maze.cell_to_xy((3, 4)), axis=1)
    assert np.allclose(made.rewards, np.exp(-distance), atol=1e-6)


def test_the_map_that_a_data_set_carries_is_used() -> None:
    maze = Maze(OWN_MAP)
    x = np.linspace(-1.2, 1.2, 64)
    states = np.stack((x, np.ones_like(x), np.ones_like(x), 0 * x), axis=1)
    data = rows_in("PointMaze_UMaze-v3", states, states + np.array([0.01, 0, 0, 0]), 2)
    carried = dataclasses.replace(data.metadata, env_kwargs={"maze_map": OWN_MAP, "continuing_task": False})
    made = make_augmented(dataclasses.replace(data, metadata=carried), GuDAConfig(n=2000))
    assert (wall_distance(maze, made.observations[:, :2].astype(np.float64)) > 0.08).all()
    cells = maze.xy_to_cell(made.observations[:, :2])
    assert {tuple(cell) for cell in cells} == {tuple(cell) for cell in maze.free_cells}
    arrived = np.linalg.norm(made.next_observations[:, :2] - maze.cell_to_xy((3, 4)), axis=1) <= 0.45
    assert arrived.any() and np.array_equal(made.discounts == 0, arrived)


def test_no_data_set_imports_a_module_for_its_maze() -> None:
    data = rows_in("some_module:PointMaze_Mine-v0", np.zeros((4, 4)), np.zeros((4, 4)), 2)
    with pytest.raises(ImportRefusedError, match="add --env some_module:PointMaze_Mine-v0"):
        make_augmented(data, GuDAConfig(n=10, domain="pointmaze"))


def test_a_maze_that_imports_a_module_is_augmented_where_a_person_names_it(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "own_maze_module.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('test/Named-v0', entry_point='gymnasium_robotics.envs.maze.point_maze:PointMazeEnv',\n"
        f"                   kwargs={{'maze_map': {OWN_MAP}}})\n"
    )
    monkeypatch.chdir(tmp_path)
    env_id = "own_maze_module:test/Named-v0"
    states = np.tile(np.array([0.3, 1, 1, 0]), (8, 1))
    data = rows_in(env_id, states, states + np.array([0.01, 0, 0, 0]), 2)
    data.save(tmp_path / "data")
    augment_it = ["data", "augment", "data", "out", "--n", "100", "--overwrite"]
    assert main(augment_it) == 2 and f"add --env {env_id}" in capsys.readouterr().err
    learn = TD3BCConfig(dataset="data", augment="guda", n_augmented=100)
    assert "own_maze_module" not in sys.modules
    try:
        assert len(training_data(learn, 0, EnvSettings(env_id))) == 108
        assert main([*augment_it, "--env", env_id]) == 0 and Dataset.load("out").rewards.any()
    finally:
        sys.modules.pop("own_maze_module", None)
        gymnasium.registry.pop("test/Named-v0", None)
