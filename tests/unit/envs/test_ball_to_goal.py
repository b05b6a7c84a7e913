"""The soccer task: its mechanics by hand, its symmetry by brute force, its environment."""

import gymnasium
import numpy as np
import pytest
from soccer import walk_and_kick

import rlopt
from rlopt.envs.tasks.ball_to_goal import GOAL, BallToGoal, advance, ball_reward
from rlopt.errors import ConfigError


def state(robot=(0.0, 0.0), angle=0.0, ball=(3.0, 2.0), rolling=(0.0, 0.0)) -> np.ndarray:
    return np.array([[*robot, np.cos(angle), np.sin(angle), *ball, *rolling]])


def test_walking_and_turning_by_hand() -> None:
    # Heading north: forward is +y, to the left is -x; a full turn action is 2 rad/s for 0.1 s.
    after = advance(state(angle=np.pi / 2), np.array([[1.0, 0.5, 1.0]]))[0]
    assert np.allclose(after[:2], [-0.05, 0.1]) and np.allclose(
        after[2:4], [np.cos(np.pi / 2 + 0.2), np.sin(np.pi / 2 + 0.2)]
    )
    assert np.allclose(after[4:], [3, 2, 0, 0])


def test_a_ball_rolls_and_slows_down() -> None:
    after = advance(state(rolling=(1.0, -2.0)), np.zeros((1, 3)))[0]
    assert np.allclose(after[4:], [3.1, 1.8, 0.9, -1.8])


def test_a_kick_gives_the_ball_twice_the_robots_speed() -> None:
    # The robot steps from 0 to 0.1; the ball at 0.3 is then 0.2 away, within reach, and is pushed to 0.1 + 0.25.
    after = advance(state(ball=(0.3, 0.0)), np.array([[1.0, 0.0, 0.0]]))[0]
    assert np.allclose(after[4:], [0.35, 0.0, 2.0, 0.0])
    away = advance(state(ball=(0.15, 0.0)), np.array([[-1.0, 0.0, 0.0]]))[0]
    assert np.allclose(away[6:], 0)  # moving away kicks nothing
    faster = advance(state(ball=(0.0, 0.0), rolling=(3.0, 0.0)), np.array([[0.5, 0.0, 0.0]]))[0]
    assert np.allclose(faster[6:], [2.7, 0.0])  # a kick does not brake a ball that flees faster


def test_every_place_direction_and_mirror_image_is_alike() -> None:
    generator = np.random.default_rng(0)
    count = 3000
    angle = generator.uniform(-np.pi, np.pi, count)
    robot = generator.uniform(-2, 2, (count, 2))
    near = generator.normal(0, 0.2, (count, 2))
    states = np.concatenate(
        (robot, np.stack((np.cos(angle), np.sin(angle)), axis=1), robot + near, generator.normal(size=(count, 2))),
        axis=1,
    )
    actions = generator.uniform(-1, 1, (count, 3))
    turn, shift = generator.uniform(-np.pi, np.pi), np.array([3.0, -7.0])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def moved(rows: np.ndarray, flip: bool) -> np.ndarray:
        image = rows.reshape(-1, 4, 2) * ([1, -1] if flip else [1, 1])
        image = image @ matrix.T
        image[:, [0, 2]] += shift
        return image.reshape(-1, 8)

    following = advance(states, actions)
    kicked = np.linalg.norm(following[:, 6:] - 0.9 * states[:, 6:], axis=1) > 1e-9
    assert 0.1 < kicked.mean() < 0.9
    for flip in (False, True):
        image_actions = actions * ([1, -1, -1] if flip else [1, 1, 1])
        assert np.allclose(advance(moved(states, flip), image_actions), moved(following, flip), atol=1e-12)


def test_a_simple_player_scores_and_the_episode_ends_there() -> None:
    env = gymnasium.make("rlopt/BallToGoal-v0")
    scored = 0
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        for _ in range(200):
            observation, reward, terminated, truncated, info = env.step(walk_and_kick(observation))
            assert reward == env.unwrapped.compute_reward(observation["achieved_goal"], observation["desired_goal"], {})
            if terminated or truncated:
                break
        assert terminated or truncated
        assert info["is_success"] == (reward == 1)
        scored += int(reward)
    assert scored >= 10


def test_leaving_the_field_ends_the_episode_without_reward() -> None:
    env = BallToGoal()
    env.reset(seed=0)
    env.state = state(robot=(0.0, 2.95), angle=np.pi / 2)[0]
    _, reward, terminated, _, info = env.step(np.array([1.0, 0, 0]))
    assert terminated and reward == 0 and not info["is_success"]
    with pytest.raises(ConfigError, match="reward_type"):
        BallToGoal("shaped")


def test_rewards_by_hand_and_through_make_env() -> None:
    balls = np.array([[4.5, 0.5], [4.5, 0.51], [4.0, 0.0], [0.0, 0.0]])
    assert ball_reward(balls, np.array(GOAL)).tolist() == [1, 0, 1, 0]
    assert np.allclose(ball_reward(balls, np.array(GOAL), dense=True), [-0.5, -0.51, -0.5, -4.5])
    env = rlopt.make_env("rlopt/BallToGoal-v0", n_envs=2, env_kwargs={"reward_type": "dense"})
    observation = env.reset()
    assert set(observation) == {"observation", "achieved_goal", "desired_goal"}
    _, rewards, _, _ = env.step(np.zeros((2, 3), np.float32))
    assert np.allclose(rewards, -np.linalg.norm(observation["achieved_goal"] - GOAL, axis=1), atol=1e-6)
