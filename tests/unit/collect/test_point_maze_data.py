"""Generated PointMaze data and the environment that they belong to."""

import gymnasium
import numpy as np
import pytest

import rlopt
from rlopt.analysis.dataset_coverage import coordinates, draw_coverage
from rlopt.cli.main import main
from rlopt.collect.generators import generate
from rlopt.collect.point_maze import GoalController
from rlopt.data import Dataset
from rlopt.envs.flat import FlatObservation
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES
from rlopt.errors import ConfigError, SpaceError, UnknownNameError

pytest.importorskip("gymnasium_robotics")


def replay_errors(data: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps gymnasium's environment from each row's state; returns errors of the successors and of the rewards."""
    env = gymnasium.make(data.metadata.env)
    env.reset(seed=0)
    point = env.unwrapped.point_env
    errors, rewards = [], []
    for row in rows:
        state = data.observations[row, :4].astype(np.float64)
        point.data.qacc_warmstart[:] = 0
        point.set_state(state[:2], state[2:])
        observation, reward, *_ = env.unwrapped.step(data.actions[row])
        errors.append(np.abs(observation["observation"] - data.next_observations[row, :4]).max())
        rewards.append(abs(reward - data.rewards[row]))
    env.close()
    return np.array(errors), np.array(rewards)


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_rows_are_the_simulators_own_transitions(backend: str) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")
    data = generate("pointmaze-umaze", 1200, seed=1, n_envs=3, backend=backend)
    assert len(data) == 1200 and data.observations.shape == (1200, 4) and backend in data.metadata.generator
    assert data.rewards.sum() > 0 and (data.discounts == 1).all() and np.abs(data.actions).max() == 1.0
    errors, rewards = replay_errors(data, np.arange(0, 1200, 7))
    assert np.quantile(errors, 0.9) < 1e-6  # in contact with a wall a float32 state can lead elsewhere
    assert rewards.max() == 0
    inside = ~data.episode_ends[:-1]
    assert np.array_equal(data.observations[1:][inside], data.next_observations[:-1][inside])


def test_walks_arrive_in_their_target_cell() -> None:
    data = generate("pointmaze-medium", 3000, seed=0, n_envs=1, backend="gymnasium", noise=0.3)
    maze = Maze.from_id(data.metadata.env)
    walks = data.episodes()[:-1]  # the last one is cut by n
    assert len(walks) >= 3
    for walk in walks:
        targets = data.extras["walk_target"][walk]
        assert (targets == targets[0]).all()
        end = data.next_observations[walk.stop - 1, :2]
        assert np.abs(end - targets[0]).max() < 0.2 + 0.1
        steps = maze.xy_to_cell(data.observations[walk, :2])
        assert (
            maze.distances(maze.xy_to_cell(targets[0]))[tuple(steps[0])] >= 1 and not maze.walls[tuple(steps.T)].any()
        )


def test_one_seed_gives_one_data_set_and_another_seed_another() -> None:
    first, again, other = (
        generate("pointmaze-umaze", 600, seed=seed, n_envs=2, backend="gymnasium") for seed in (3, 3, 4)
    )
    for column in ("observations", "actions", "rewards", "next_observations", "episode_ends"):
        assert getattr(first, column).tobytes() == getattr(again, column).tobytes()
    assert not np.array_equal(first.observations, other.observations)


def test_goal_in_observation_matches_the_environment_with_that_option() -> None:
    data = generate("pointmaze-umaze", 50, seed=0, goal_in_observation=True, backend="gymnasium")
    env = rlopt.make_env(data.metadata.env, env_kwargs={"goal_in_observation": True})
    assert env.observation_space.shape == data.observations.shape[1:] == (6,)
    assert np.array_equal(env.reset()[0, 4:], data.observations[0, 4:]) and (data.observations[:, 4:] == [-1, 1]).all()
    env.close()


@pytest.mark.parametrize("env_id", FIXED_GOAL_MAZES)
def test_the_goal_is_fixed_and_starts_are_spread_but_away_from_it(env_id: str) -> None:
    task = FIXED_GOAL_MAZES[env_id]
    assert gymnasium.spec(task.base).max_episode_steps == task.episode_steps
    maze = Maze.from_id(env_id)
    assert np.array_equal(maze.walls, Maze.from_id(task.base).walls)
    env = gymnasium.make(env_id)
    starts = []
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        assert np.array_equal(env.unwrapped.goal, maze.cell_to_xy(task.goal_cell)) and not info["success"]
        starts.append(observation)
    assert observation.shape == (4,) and env.observation_space.contains(observation)
    distances = np.linalg.norm(np.array(starts)[:, :2] - maze.cell_to_xy(task.goal_cell), axis=1)
    assert distances.min() > 0.14 and len(np.unique(maze.xy_to_cell(np.array(starts)[:, :2]), axis=0)) > 4
    site = env.unwrapped.model.site_pos[env.unwrapped.target_site_id]
    assert np.array_equal(site[:2], maze.cell_to_xy(task.goal_cell))
    env.close()


def test_a_map_of_ones_own_and_an_episodic_task() -> None:
    env = rlopt.make_env(
        "rlopt/PointMaze_UMaze-v0",
        env_kwargs={"maze_map": [[1] * 4, [1, 0, 0, 1], [1] * 4], "goal_cell": [1, 2], "continuing_task": False},
    )
    env.reset()
    done = np.zeros(1, bool)
    for _ in range(300):
        _, reward, done, infos = env.step(np.array([[0.5, 0.0]], np.float32))
        if done[0]:
            break
    assert done[0] and reward[0] == 1 and not infos[0]["TimeLimit.truncated"]
    with pytest.raises(ConfigError, match=r"the goal \(0, 0\) is not a free cell"):
        rlopt.make_env("rlopt/PointMaze_UMaze-v0", env_kwargs={"goal_cell": [0, 0]})


def test_state_of_the_fixed_goal_maze_is_exact() -> None:
    def make() -> object:
        return rlopt.make_env("rlopt/PointMaze_Medium-v0", n_envs=2, seed=5)

    env = make()
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (80, 2, 2)).astype(np.float32)
    for action in actions[:40]:
        env.step(action)
    state = env.get_state()
    expected = [env.step(action)[0] for action in actions[40:]]
    other = make()
    other.set_state(state)
    assert np.array_equal([other.step(action)[0] for action in actions[40:]], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("pointmaze-umaz", 10, {}), UnknownNameError, "pointmaze-umaze"),
        (("pointmaze-umaze", 0, {}), ConfigError, "from 1"),
        (("pointmaze-umaze", 10, {"noise": -1.0}), ConfigError, "noise"),
        (("pointmaze-umaze", 10, {"noise": float("nan")}), ConfigError, "noise"),
        (("pointmaze-umaze", 10, {"n_envs": 0}), ConfigError, "n_envs"),
        (("pointmaze-umaze", 10, {"n_envs": 2.5}), ConfigError, "n_envs"),
        (("pointmaze-umaze", 10, {"seed": -1}), ConfigError, "seed"),
        (("pointmaze-umaze", 10.5, {}), ConfigError, "from 1"),
        (("pointmaze-umaze", 10, {"backend": "envpol"}), UnknownNameError, "envpool"),
        (("pointmaze-umaze", 10, {"nois": 1.0}), UnknownNameError, "noise"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, error: type, message: str) -> None:
    name, n, options = arguments
    with pytest.raises(error, match=message):
        generate(name, n, **options)


def test_command_line_writes_a_data_set(tmp_path, capsys) -> None:
    out = tmp_path / "data"
    assert main(["data", "generate", "pointmaze-umaze", "--n", "3e2", "--seed", "7", "--noise", "0.1",
                 "--backend", "gymnasium", "--out", str(out)]) == 0  # fmt: skip
    assert "300 transitions" in capsys.readouterr().out
    expected = generate("pointmaze-umaze", 300, seed=7, noise=0.1, backend="gymnasium")
    assert Dataset.load(out).observations.tobytes() == expected.observations.tobytes()
    assert main(["data", "generate", "--help"]) == 0 and "pointmaze-large" in capsys.readouterr().out
    for bad in (["--nois", "1", "--n", "1", "--out", "x"], ["--n", "0", "--out", "x"], ["--n", "10"],
                ["--n", "1", "--noise", "much", "--out", "x"]):  # fmt: skip
        assert main(["data", "generate", "pointmaze-umaze", *bad]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_reference_returns_are_what_the_two_policies_earn() -> None:
    env_id, count = "rlopt/PointMaze_UMaze-v0", 24
    task = FIXED_GOAL_MAZES[env_id]
    generator, controller = np.random.default_rng(1), GoalController(env_id)
    for kind, reference, deviation in (
        ("random", task.reference_returns[0], 38),
        ("expert", task.reference_returns[1], 34),
    ):
        env = rlopt.make_env(env_id, n_envs=count, seed=77)
        observations, totals = env.reset(), np.zeros(count)
        for _ in range(task.episode_steps):
            uniform = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
            observations, rewards, dones, _ = env.step(uniform if kind == "random" else controller(observations))
            totals += rewards
        assert dones.all()
        # Both are means: of 24 episodes here, of 200 in the table; the deviations are of single episodes.
        assert abs(totals.mean() - reference) < 4 * deviation * np.sqrt(1 / count + 1 / 200)
        env.close()


def test_flat_observations_take_the_entries_in_their_order() -> None:
    env = gymnasium.make("PointMaze_UMaze-v3")
    flat = FlatObservation(env, ("desired_goal", "observation"))
    observation, _ = flat.reset(seed=0)
    assert observation.shape == flat.observation_space.shape == (6,)
    assert np.array_equal(observation[:2], env.unwrapped.goal)
    for keys in (("observation", "no_such"), ()):
        with pytest.raises(SpaceError, match="cannot flatten"):
            FlatObservation(env, keys)
    with pytest.raises(SpaceError, match="cannot flatten"):
        FlatObservation(gymnasium.make("Pendulum-v1"), ("observation",))


@pytest.mark.parametrize("goal_in_observation", [False, True])
def test_the_picture_of_a_point_maze_shows_places_and_walls(goal_in_observation: bool) -> None:
    data = generate("pointmaze-umaze", 100, seed=0, n_envs=1, goal_in_observation=goal_in_observation)
    found = coordinates(data)
    assert found is not None and found[2]
    np.testing.assert_array_equal(found[0], np.asarray(data.observations)[:, :2])
    panel = draw_coverage(data).axes[0]
    (walls,) = panel.images
    assert walls.get_extent() == [-2.5, 2.5, -2.5, 2.5]  # 5 by 5 cells of 1 m
    solid = ~np.isnan(np.ma.filled(walls.get_array().astype(float), np.nan))
    free = [(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert sorted(map(tuple, np.argwhere(~solid).tolist())) == free
