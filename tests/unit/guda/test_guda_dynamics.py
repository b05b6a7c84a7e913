"""Every shipped augmentation of mazes against the simulator, and wrong ones that must be caught."""

import gymnasium
import numpy as np
import pytest
from mazes import ant_maze_data, point_maze_data, point_maze_domain

from rlopt.agents.guda.augmentations import Augmentation, Reflect, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.dynamics_check import check_dynamics
from rlopt.agents.guda.guides import ShortestPath
from rlopt.agents.guda.maze_domains import AntMaze, PointMaze
from rlopt.data import Dataset, Metadata
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import AugmentationError, ConfigError, EnvFaultError

pytest.importorskip("gymnasium_robotics")


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
@pytest.mark.parametrize("resimulate", [True, False])
def test_point_maze_is_exact(name: str, resimulate: bool) -> None:
    data = point_maze_data(name)
    domain = point_maze_domain(data)
    augmentation = Augmentation(domain, Translate(), Rotate(), Reflect())
    report = check_dynamics(augmentation, None, data, n=400, resimulate=resimulate)
    assert report.errors.max() <= (1e-12 if resimulate else 1e-6) and report.exact
    assert report.reward_errors.max() == 0 and len(report.reward_errors) == 400 and report.expected is None


def test_point_maze_at_cell_centres_is_exact_with_the_users_environment() -> None:
    data = point_maze_data("large")
    domain = point_maze_domain(data)

    def centres(augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> dict:
        cells = generator.integers(0, len(domain.maze.free_cells), batch.n_segments)
        places = domain.maze.cell_to_xy(domain.maze.free_cells[cells]).astype(np.float32)
        return {**augmentation.sample(batch, generator), "position": places}

    env = gymnasium.make("PointMaze_Large-v3")
    report = check_dynamics(domain.augmentation(), env, data, guide=centres, n=300, resimulate=False)
    assert report.errors.max() <= 1e-6 and report.reward_errors.max() == 0
    assert "exact" in str(report) and "NOT" not in str(report)


def ant_domain() -> AntMaze:
    maze = Maze.from_id("AntMaze_UMaze-v5")
    return AntMaze(maze, maze.cell_to_xy((1, 1)))


@pytest.mark.parametrize("operations", [(Translate(),), (Translate(), Rotate(quarter=True))])
def test_ant_maze_translations_and_quarter_turns_are_exact(operations: tuple) -> None:
    augmentation = Augmentation(ant_domain(), *operations)
    report = check_dynamics(augmentation, None, ant_maze_data(), n=300)
    assert report.share_beyond <= 0.01 and report.exact and report.expected is None
    assert report.source_errors.max() < 1e-4  # float32 rounding, which contacts amplify


def test_ant_maze_is_not_exact_under_any_yaw_and_says_so() -> None:
    augmentation = Augmentation(ant_domain(), Translate(), Rotate(quarter=False))
    report = check_dynamics(augmentation, None, ant_maze_data(), n=300)
    assert report.share_beyond > 0.02 and report.errors.max() > 1e-3 and not report.exact
    assert "friction cone" in str(report) and report.expected == augmentation.inexact_because


def test_the_pyramidal_friction_cone_is_the_cause() -> None:
    """With MuJoCo's elliptic cone, which is round, any yaw is exact: the reason that the class gives is the reason."""
    domain = ant_domain()
    simulator = domain.simulator()
    simulator.env.unwrapped.ant_env.model.opt.cone = 1
    augmentation = Augmentation(domain, Translate(), Rotate(quarter=False))
    report = check_dynamics(augmentation, simulator, ant_maze_data(), n=200)
    assert report.exact


class WrongTurn(PointMaze):
    """Forgets to turn the action."""

    layout = PointMaze.layout.__class__(points=((0, 1),), vectors=((2, 3),))


def test_an_augmentation_that_forgets_the_action_is_caught() -> None:
    data = point_maze_data("umaze")
    right = point_maze_domain(data)
    wrong = WrongTurn(right.maze, right.goal)
    report = check_dynamics(Augmentation(wrong, Rotate()), None, data, n=200)
    assert not report.exact and report.share_beyond > 0.5 and report.worst_column in (2, 3)


class WrongReward(PointMaze):
    def outcome(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        rewards, discounts = super().outcome(batch)
        return 1 - rewards, discounts


def test_a_wrong_reward_is_caught() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    report = check_dynamics(Augmentation(WrongReward(domain.maze, domain.goal), Translate()), None, data, n=100)
    assert report.errors.max() < 1e-6 and report.reward_errors.min() == 1 and not report.exact


class Mirror:
    """A user's own augmentation, without a domain: x changes its sign."""

    def augment(self, batch: Batch, generator: np.random.Generator) -> tuple[Batch, np.ndarray]:
        flip = np.array([-1, 1, -1, 1])
        moved = Batch(
            batch.observations * flip,
            batch.actions * flip[:2],
            batch.rewards,
            batch.next_observations * flip,
            batch.discounts,
        )
        return moved, np.ones(len(batch), bool)


def point_state(env: gymnasium.Env, observation: np.ndarray) -> None:
    point = env.unwrapped.point_env
    point.data.qacc_warmstart[:] = 0
    point.set_state(observation[:2], observation[2:])


def test_a_users_own_augmentation_is_checked_given_how_to_set_the_state() -> None:
    data = point_maze_data("umaze")
    env = gymnasium.make("PointMaze_UMaze-v3")
    report = check_dynamics(Mirror(), env, data, set_state=point_state, n=300)
    # The U is open to one side: its mirror image runs into other walls, but it holds away from them.
    assert np.median(report.errors) < 1e-12
    with pytest.raises(ConfigError, match="set_state"):
        check_dynamics(Mirror(), env, data)


def test_a_check_without_valid_transitions_stops() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)

    def nowhere(augmentation: Augmentation, batch: Batch, generator: np.random.Generator) -> dict:
        return {**augmentation.sample(batch, generator), "position": np.full((batch.n_segments, 2), 1e6)}

    with pytest.raises(AugmentationError, match="nothing to check"):
        check_dynamics(domain.augmentation(), None, data, guide=nowhere, n=50_000, resimulate=False)
    with pytest.raises(ConfigError, match="at least 1"):
        check_dynamics(domain.augmentation(), None, data, n=0)


def test_guided_transitions_are_as_exact() -> None:
    data = point_maze_data("medium")
    domain = point_maze_domain(data)
    report = check_dynamics(domain.augmentation(), None, data, guide=ShortestPath(domain.maze, (6, 6)), n=200)
    assert report.errors.max() < 1e-12


class Faulty(gymnasium.Env):
    """A point that moves by its action; ``fault`` is what its step does."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, fault: str) -> None:
        self.fault, self.place = fault, np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple:
        if self.fault == "raises":
            raise ZeroDivisionError("no time has passed")
        place = self.place + action
        places = {"nan": place * np.nan, "shape": place[None], "short": place[:1], "text": np.array(["a", "b"])}
        outcome = (places.get(self.fault, place), "1.5" if self.fault == "reward" else 0.0, False, False, {})
        return outcome[:4] if self.fault == "four" else outcome


class Shift:
    """Moves a transition by a draw."""

    def augment(self, batch: Batch, generator: np.random.Generator) -> tuple[Batch, np.ndarray]:
        by = generator.normal(size=batch.observations.shape)
        moved = Batch(
            batch.observations + by, batch.actions, batch.rewards, batch.next_observations + by, batch.discounts
        )
        return moved, np.ones(len(by), bool)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("raises", r"Faulty failed in step\(\): ZeroDivisionError: no time has passed"),
        ("nan", "the simulator gives NaN or infinity"),
        ("shape", r"Faulty gave an observation of shape \(1, 2\) in step"),
        ("short", r"Faulty gave an observation of shape \(1,\) in step"),
        ("text", "Faulty gave an observation that is"),
        ("reward", "Faulty gave the reward '1.5'"),
        ("four", "Faulty: step.* four values"),
        ("state", r"Faulty failed in set_state\(\): KeyError"),
    ],
)
def test_a_simulator_that_fails_is_an_error_and_never_a_result(fault: str, said: str) -> None:
    """NaN compares as no error, and a wrong shape is broadcast."""

    def set_state(env: Faulty, observation: np.ndarray) -> None:
        env.place = {}["place"] if fault == "state" else observation

    rows = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    data = Dataset(
        observations=rows,
        actions=np.full((20, 2), 0.5, np.float32),
        rewards=np.zeros(20, np.float32),
        next_observations=rows + np.float32(0.5),
        discounts=np.ones(20, np.float32),
        episode_ends=np.arange(20) == 19,
        metadata=Metadata(env="Faulty-v0", generator="test"),
    )
    if not fault:
        assert check_dynamics(Shift(), Faulty(fault), data, set_state=set_state, n=10).exact
        return
    with pytest.raises(EnvFaultError, match=said):
        check_dynamics(Shift(), Faulty(fault), data, set_state=set_state, n=10)
