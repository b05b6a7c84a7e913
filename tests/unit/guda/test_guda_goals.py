"""Parking, soccer and Fetch: augmentations against the simulators, rewards against the environments, guides."""

import types

import gymnasium
import numpy as np
import pytest
from soccer import walk_and_kick

from rlopt.agents.guda.augmentations import Augmentation, Reflect, RelabelGoal, Rotate, Translate
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.dynamics_check import check_dynamics
from rlopt.agents.guda.generation import augment
from rlopt.agents.guda.goal_domains import BallToGoal, Fetch, Parking, parking_spots
from rlopt.agents.guda.guides import BallInGoal, BallToward, ParkAtGoal, ReachedGoal
from rlopt.data import Dataset, Metadata
from rlopt.errors import AugmentationError, ConfigError


def record(env: gymnasium.Env, name: str, episodes: int, length: int, act) -> Dataset:
    columns: dict[str, list] = {key: [] for key in ("before", "after", "actions", "rewards", "discounts", "ends")}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for step in range(length):
            action = np.asarray(act(observation, step), np.float32)
            following, reward, terminated, *_ = env.step(action)
            done = terminated or step == length - 1
            values = (observation, following, action, reward, 1.0 - terminated, done)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            observation = following
            if done:
                break
    sides = [
        {key: np.array([row[key] for row in columns[side]], np.float32) for key in observation}
        for side in ("before", "after")
    ]
    rewards, discounts = (np.array(columns[key], np.float32) for key in ("rewards", "discounts"))
    return Dataset(
        sides[0], np.array(columns["actions"]), rewards, sides[1], discounts, np.array(columns["ends"]), Metadata(name)
    )


@pytest.fixture(scope="module")
def drives() -> Dataset:
    highway_env = pytest.importorskip("highway_env")
    gymnasium.register_envs(highway_env)
    generator = np.random.default_rng(0)
    env = gymnasium.make("parking-v0")
    return record(env, "parking-v0", 6, 20, lambda observation, step: generator.uniform(-1, 1, 2))


@pytest.fixture(scope="module")
def plays() -> Dataset:
    env = gymnasium.make("rlopt/BallToGoal-v0")
    return record(env, "rlopt/BallToGoal-v0", 8, 200, lambda observation, step: walk_and_kick(observation))


def test_parking_spots_are_the_goals_of_the_environment(drives: Dataset) -> None:
    env = gymnasium.make("parking-v0")
    spots = parking_spots()
    seen = set()
    for seed in range(60):
        goal = env.reset(seed=seed)[0]["desired_goal"]
        gaps = np.abs(spots - goal).max(axis=1)
        assert gaps.min() < 1e-6
        seen.add(int(gaps.argmin()))
    assert len(spots) == 28 and len(seen) > 20


@pytest.mark.parametrize("guide", [None, ParkAtGoal()])
def test_parking_is_exact(drives: Dataset, guide: ParkAtGoal | None) -> None:
    augmentation = Augmentation(Parking(), RelabelGoal(), Translate(), Rotate(), Reflect(), anchor="last")
    report = check_dynamics(augmentation, None, drives, guide=guide, n=150)
    # Recorded cosines and sines are float32: their angle, which the simulator goes on with, has another length by 3e-8.
    assert report.errors.max() < 1e-7 and report.reward_errors.max() < 1e-4 and report.exact
    assert report.source_errors.max() < 1e-5


def test_parking_refuses_what_could_touch_a_wall(drives: Dataset) -> None:
    """Near the walls the simulator's car crashes and the valid ones must not have been among those that do."""
    domain = Parking()
    simulator = domain.simulator()
    generator = np.random.default_rng(0)
    crashed = valid = 0
    for _ in range(150):
        angle = generator.uniform(-np.pi, np.pi)
        speed = generator.uniform(-10, 10)
        x, y = generator.choice([-1, 1], 2) * [generator.uniform(0.28, 0.34), generator.uniform(0.14, 0.2)]
        heading = np.array([np.cos(angle), np.sin(angle)])
        row = np.concatenate(([x, y], speed / 5 * heading, heading, parking_spots()[0]))
        following, _ = simulator.transition(row, np.zeros(2))
        one = Batch(row[None], np.zeros((1, 2)), np.zeros(1), following[None], np.ones(1))
        allowed = bool(domain.valid(one)[0])
        hit = simulator.env.unwrapped.vehicle.crashed
        assert not (allowed and hit)
        crashed, valid = crashed + hit, valid + allowed
    assert crashed > 10 and valid > 10


def test_guided_drives_end_in_their_goal(drives: Dataset) -> None:
    made = augment(drives, Parking().augmentation(), ParkAtGoal(0.1), 4000, seed=0, segment_length=None)
    assert set(made.observations) == {"observation", "achieved_goal", "desired_goal"}
    last = drives.episode_ends[made.extras["source_row"]]
    ends = {key: rows[last] for key, rows in made.next_observations.items()}
    assert last.sum() > 20 and np.allclose(ends["achieved_goal"][:, :2], ends["desired_goal"][:, :2], atol=1e-6)
    cosines = (ends["achieved_goal"][:, 4:] * ends["desired_goal"][:, 4:]).sum(axis=1)
    assert cosines.min() > np.cos(0.1) - 1e-5
    assert np.array_equal(made.observations["observation"], made.observations["achieved_goal"])
    assert np.unique(made.extras["goal"], axis=0).shape == (28, 6)


def test_parking_rewards_are_the_environments_own(drives: Dataset) -> None:
    made = augment(drives, Parking().augmentation(), ParkAtGoal(), 400, seed=1, segment_length=5)
    env = gymnasium.make("parking-v0").unwrapped
    following = made.next_observations
    theirs = [
        env.compute_reward(a, d, {})
        for a, d in zip(*(following[k] for k in ("achieved_goal", "desired_goal")), strict=True)
    ]
    assert np.allclose(made.rewards, theirs, atol=1e-5)
    assert np.array_equal(made.discounts == 0, made.rewards > -0.12) and (made.discounts == 0).any()


@pytest.mark.parametrize("guide", [None, BallToward(), BallInGoal()])
def test_soccer_is_exact(plays: Dataset, guide) -> None:
    report = check_dynamics(BallToGoal().augmentation(), None, plays, guide=guide, n=300)
    assert report.errors.max() < 1e-9 and report.reward_errors.max() == 0 and report.exact


def test_kicks_are_aimed_at_the_goal_and_walks_lead_behind_the_ball(plays: Dataset) -> None:
    made = augment(plays, BallToGoal().augmentation(), BallToward(aim_noise=0.0), 3000, seed=0, segment_length=3)
    uniform = augment(plays, BallToGoal().augmentation(), None, 3000, seed=0, segment_length=3)
    segments = [episode for episode in made.episodes() if episode.stop - episode.start == 3]
    kicks = walks = 0
    for segment in segments:
        first, last = made.observations["observation"][segment][0], made.next_observations["observation"][segment][-1]
        goal = made.observations["desired_goal"][segment][0]
        before, after = np.linalg.norm(first[4:6] - goal), np.linalg.norm(last[4:6] - goal)
        if np.linalg.norm(last[4:6] - first[4:6]) > 1e-6:
            kicks += 1
            assert after < before
        else:
            walks += 1
            toward = (goal - last[4:6]) / np.linalg.norm(goal - last[4:6])
            assert np.dot(last[4:6] - last[0:2], toward) > 0.99 * np.linalg.norm(last[4:6] - last[0:2])
            assert np.linalg.norm(last[4:6] - last[0:2]) < np.linalg.norm(first[4:6] - first[0:2])
    assert kicks > 50 and walks > 50
    assert made.rewards.sum() > 2 * uniform.rewards.sum()


def test_whole_plays_end_in_the_goal(plays: Dataset) -> None:
    made = augment(plays, BallToGoal().augmentation(), BallInGoal(), 2000, seed=0, segment_length=None)
    ends = np.flatnonzero(made.episode_ends[:-1])
    assert made.rewards[ends].mean() > 0.9 and made.discounts[ends].mean() < 0.1
    field = np.abs(made.observations["observation"][:, [0, 1, 4, 5]]).max(axis=0)
    assert (field <= [4.5, 3, 4.5, 3]).all() and 0.3 < made.extras["mirror"].mean() < 0.7


class FetchReplay:
    """Fetch's state is not in its observation: replays the recorded actions from the reset, with the goal replaced."""

    def __init__(self, env: gymnasium.Env, data: Dataset) -> None:
        self.env, self.data = env, data
        self.rows = {row.tobytes(): index for index, row in enumerate(data.observations["observation"])}
        self.starts = [episode.start for episode in data.episodes()]

    def transition(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float]:
        row = self.rows[observation[:-3].astype(np.float32).tobytes()]
        episode = max(index for index, start in enumerate(self.starts) if start <= row)
        self.env.reset(seed=episode)
        self.env.unwrapped.goal = observation[-3:]
        for step in range(self.starts[episode], row):
            self.env.step(self.data.actions[step])
        following, reward, *_ = self.env.step(action.astype(np.float32))
        return np.concatenate((following["observation"], following["desired_goal"])), reward


def integer_joint_types(patch: pytest.MonkeyPatch) -> None:
    """gymnasium-robotics 1.4.2 compares joint types as mujoco before 3.17 gave them; else no Fetch task starts."""
    import mujoco
    from gymnasium_robotics.utils import mujoco_utils

    class Older:
        mjtJoint = types.SimpleNamespace(
            **{name: int(getattr(mujoco.mjtJoint, name)) for name in dir(mujoco.mjtJoint) if name.startswith("mjJNT")}
        )

        def __getattr__(self, name: str) -> object:
            return getattr(mujoco, name)

    patch.setattr(mujoco_utils, "mujoco", Older())


@pytest.mark.parametrize("env_id", ["FetchReach-v4", "FetchPush-v4", "FetchReachDense-v4"])
def test_fetch_relabelling_is_exact(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    integer_joint_types(monkeypatch)
    env = gymnasium.make(env_id)
    generator = np.random.default_rng(0)
    data = record(env, env_id, 3, 12, lambda observation, step: generator.uniform(-1, 1, 4))
    domain = Fetch(data, dense="Dense" in env_id)
    report = check_dynamics(
        domain.augmentation(), FetchReplay(env, data), data, guide=ReachedGoal(), n=20, resimulate=False
    )
    assert report.errors.max() < 1e-6 and report.exact
    uniform = augment(data, domain.augmentation(), None, 500, seed=0)
    guided = augment(data, domain.augmentation(), ReachedGoal(), 500, seed=0)
    for made in (uniform, guided):
        following = made.next_observations
        theirs = env.unwrapped.compute_reward(following["achieved_goal"], following["desired_goal"], {})
        assert np.allclose(made.rewards, theirs, atol=1e-6)
        source = made.extras["source_row"]
        for key in ("observation", "achieved_goal"):
            assert made.observations[key].tobytes() == data.observations[key][source].tobytes()
    assert guided.rewards.max() == 0 == guided.rewards.min() and len(np.unique(uniform.extras["goal"], axis=0)) > 400
    env.close()
    with pytest.raises(AugmentationError, match="do not determine its state"):
        check_dynamics(domain.augmentation(), None, data)
    for operation in (Translate(), Rotate(), Reflect()):
        with pytest.raises(ConfigError, match="fetch"):
            Augmentation(domain, operation)


def test_guides_and_domains_refuse_what_does_not_fit(plays: Dataset) -> None:
    with pytest.raises(ConfigError, match="ParkAtGoal sets angle, goal, position"):
        augment(plays, BallToGoal().augmentation(), ParkAtGoal(), 10)
    with pytest.raises(AugmentationError, match="fetch needs observations of 10 or 25"):
        Fetch(plays)
    with pytest.raises(AugmentationError, match="parking needs observations of 12"):
        augment(plays, Parking().augmentation(), None, 10)
    with pytest.raises(ConfigError, match="heading_noise"):
        ParkAtGoal(-1)
    with pytest.raises(ConfigError, match="aim_noise"):
        BallToward(7)
