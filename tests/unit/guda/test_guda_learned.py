"""The learned-dynamics baseline: its loss against scipy, its model against a system that is known, its refusals."""

import numpy as np
import pytest
import torch
from mazes import ant_maze_data, point_maze_data, point_maze_domain
from scipy.stats import norm

from rlopt.agents.guda.dynamics_check import check_dynamics
from rlopt.agents.guda.generation import augment
from rlopt.agents.guda.learned_dynamics import DynamicsModel, LearnedDynamics, ModelSettings, augment_with_model
from rlopt.agents.guda.losses import bounded_log_std, gaussian_loss
from rlopt.agents.guda.maze_domains import AntMaze
from rlopt.envs.tasks.mazes import Maze
from rlopt.errors import AugmentationError, ConfigError, NonFiniteError

QUICK = ModelSettings(members=3, width=32, steps=400)


def test_the_loss_is_the_gaussian_likelihood() -> None:
    generator = np.random.default_rng(0)
    mean, log_std, target = generator.normal(size=(3, 4, 5, 2))
    loss, info = gaussian_loss(torch.tensor(mean), torch.tensor(log_std), torch.tensor(target))
    expected = -norm.logpdf(target, mean, np.exp(log_std)).sum(axis=2).mean(axis=1).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert info["squared_error"].item() == pytest.approx(((mean - target) ** 2).mean(), rel=1e-12)
    bounded = bounded_log_std(torch.tensor([-1e9, 0.0, 1e9]))
    assert bounded.tolist() == [-5.0, -1.0, 3.0]


def linear_system(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    states = generator.uniform(-1, 1, (count, 4)).astype(np.float32)
    actions = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
    following = states.copy()
    following[:, 2:] = 0.9 * states[:, 2:] + 0.3 * actions
    following[:, :2] += 0.1 * following[:, 2:]
    return states, actions, following


@pytest.mark.slow
def test_the_model_finds_a_linear_system_and_is_unsure_elsewhere() -> None:
    model = DynamicsModel(*linear_system(2000, 0), [0, 1, 2, 3], ModelSettings(steps=1500), seed=0)
    states, actions, following = linear_system(500, 1)
    predicted, spread = model.predict(states, actions)
    step = np.abs(following - states).max(axis=0)
    assert np.abs(predicted - following).mean() < 0.02 * step.mean()
    _, far = model.predict(10 * states, actions)
    assert np.median(far) > 10 * np.median(spread)


def test_columns_that_are_not_modelled_do_not_change() -> None:
    states, actions, following = linear_system(100, 0)
    model = DynamicsModel(states, actions, following, [2, 3], QUICK, seed=0)
    predicted, _ = model.predict(states, actions)
    assert np.array_equal(predicted[:, :2], states[:, :2]) and not np.allclose(predicted[:, 2:], states[:, 2:])


def test_rows_are_recombined_by_axis_and_valid() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    learned = LearnedDynamics(data, domain, QUICK)
    made = augment(data, learned, None, 2000, seed=0)
    own, partner = made.extras["source_row"], made.extras["partner"][:, 0]
    assert np.array_equal(made.observations[:, [0, 2]], data.observations[own][:, [0, 2]])
    assert np.array_equal(made.observations[:, [1, 3]], data.observations[partner][:, [1, 3]])
    noise = made.extras["action_noise"]
    raw = np.stack((data.actions[own, 0], data.actions[partner, 1]), axis=1) + noise
    assert np.allclose(made.actions, np.clip(raw, -1, 1), atol=1e-6) and abs(noise.std() - 0.1) < 0.01
    for side in (made.observations, made.next_observations):
        assert not domain.clearance.blocked(side[:, :2]).any()
    distance = np.linalg.norm(made.next_observations[:, :2] - domain.goal, axis=1)
    assert np.array_equal(made.rewards, distance <= 0.45) and "approximate" in made.metadata.notes[-1]


@pytest.mark.slow
def test_the_check_measures_the_models_error() -> None:
    data = point_maze_data("umaze")
    learned = LearnedDynamics(data, point_maze_domain(data), ModelSettings(steps=1500))
    report = check_dynamics(learned, None, data, n=200)
    step = np.abs(data.next_observations - data.observations).max(axis=1)
    assert 1e-6 < np.median(report.errors) < 0.1 * np.median(step) and not report.exact
    assert report.reward_errors.mean() < 0.05


def test_one_seed_gives_one_model_and_training_elsewhere_is_not_disturbed() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    state = torch.get_rng_state()
    first, again, other = (augment_with_model(data, domain, 100, seed, QUICK) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.next_observations.tobytes() == again.next_observations.tobytes() != other.next_observations.tobytes()


def test_what_cannot_be_learned_is_refused() -> None:
    data = point_maze_data("umaze")
    domain = point_maze_domain(data)
    maze = Maze.from_id("AntMaze_UMaze-v5")
    with pytest.raises(AugmentationError, match="names no independent parts"):
        LearnedDynamics(ant_maze_data(), AntMaze(maze, (0, 0)))
    with pytest.raises(AugmentationError, match="too few to fit a model"):
        LearnedDynamics(data.take(slice(0, 20)), domain)
    with pytest.raises(AugmentationError, match="segment_length=1"):
        augment(data, LearnedDynamics(data, domain, QUICK), None, 10, segment_length=3)
    for wrong in ({"members": 1}, {"steps": 0}, {"disagreement": 0.0}, {"action_noise": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ModelSettings(**wrong)
    with pytest.raises(NonFiniteError, match="diverged"):
        LearnedDynamics(data, domain, ModelSettings(steps=300, learning_rate=1e30))
