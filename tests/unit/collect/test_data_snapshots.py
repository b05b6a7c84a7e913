"""Data sets of rlopt's own agents: recording, replay buffers, levels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.agents.mdpo.config import MDPOConfig, OffPolicyMDPOConfig
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.collect import snapshots
from rlopt.collect.recording import from_replay, record, some_episodes
from rlopt.collect.snapshots import Level, generate_snapshots
from rlopt.data import Dataset, Metadata
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError
from rlopt.evaluation.evaluate import RandomPolicy
from rlopt.runs.train import train
from rlopt.settings.run import RunConfig

TASK = "rlopt/RandomTarget-v0"


class Right:
    """Goes right in the corridor."""

    def predict(self, observation: Any, episode_start: Any = None, deterministic: bool = False) -> Any:
        return np.ones(len(observation), np.int64), None


def test_recorded_transitions_are_those_of_the_environment() -> None:
    settings = EnvSettings(id="rlopt/Corridor-v0", n_envs=2, seed=3)
    data = record(Right(), settings, 12, Metadata(env=settings.id))
    # Four steps to the end, three episodes of an environment in 12 / 2 = 6 steps: one whole, one cut after two steps.
    assert data.observations.ravel().tolist() == [0, 1, 2, 3, 0, 1] * 2  # type: ignore[union-attr]
    assert data.next_observations.ravel().tolist() == [1, 2, 3, 4, 1, 2] * 2  # type: ignore[union-attr]
    assert data.discounts.tolist() == [1, 1, 1, 0, 1, 1] * 2
    assert data.episode_ends.tolist() == [False, False, False, True, False, True] * 2
    np.testing.assert_allclose(data.rewards, [-0.1, -0.1, -0.1, 0.9, -0.1, -0.1] * 2, atol=1e-6)
    assert data.actions.dtype == np.int64
    assert len(record(Right(), settings, 7, Metadata(env=settings.id))) == 7


def test_a_time_limit_is_no_terminal() -> None:
    settings = EnvSettings(id=TASK, n_envs=1, seed=0)
    policy = RandomPolicy(spaces.Box(-1, 1, (1,), np.float32))
    data = record(policy, settings, 25, Metadata(env=TASK))
    assert np.flatnonzero(data.episode_ends).tolist() == [9, 19, 24]
    assert data.discounts.all()
    observations, following = data.observations, data.next_observations
    assert isinstance(observations, np.ndarray) and isinstance(following, np.ndarray)
    np.testing.assert_array_equal(following[:9], observations[1:10])
    # Reward: minus the distance of the action from the target, which is the first number seen.
    np.testing.assert_allclose(data.rewards, -np.abs(data.actions[:, 0] - observations[:, 0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(following[9, 1:], data.actions[9])


def replay_state(full: bool) -> dict[str, Any]:
    """Three rows of two environments; row numbers are in the observations. If full, the oldest row is at 1."""
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    return {
        "pos": 1 if full else 0,
        "full": full,
        "rows": {
            "observations": numbers,
            "next_observations": numbers + 0.5,
            "actions": np.array([[[-1], [0]], [[1], [0.5]], [[0], [-1]]], np.float32),
            "rewards": numbers[:, :, 0] * 10,
            "dones": np.array([[0, 1], [1, 0], [0, 0]], np.float32),
            "timeouts": np.array([[0, 1], [0, 0], [0, 0]], np.float32),
        },
    }


def test_a_replay_buffer_is_read_environment_by_environment_oldest_first() -> None:
    space = spaces.Box(np.array([-2.0], np.float32), np.array([4.0], np.float32))
    data = from_replay(replay_state(True), space, Metadata(env="x"))
    assert data.observations.ravel().tolist() == [2, 4, 0, 3, 5, 1]  # type: ignore[union-attr]
    assert data.rewards.tolist() == [20, 40, 0, 30, 50, 10]
    assert data.actions.ravel().tolist() == [4, 1, -2, 2.5, -2, 1]
    assert data.discounts.tolist() == [0, 1, 1, 1, 1, 1]
    assert data.episode_ends.tolist() == [True, False, True, False, False, True]


def test_some_episodes_are_whole_but_the_last() -> None:
    ends = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1], bool)
    column = np.arange(9, dtype=np.float32)
    data = Dataset(
        column[:, None], column[:, None], column, column[:, None], np.ones(9, np.float32), ends, Metadata("x")
    )
    for seed in range(5):
        part = some_episodes(data, 5, seed)
        assert len(part) == 5 and len(set(part.rewards.tolist())) == 5
        starts = [rows.start for rows in part.episodes()]
        assert {float(part.rewards[start]) for start in starts} <= {0.0, 3.0, 5.0}
    assert some_episodes(data, 9, 0).rewards.tolist() == column.tolist()
    with pytest.raises(DataError, match="--n 9 or less"):
        some_episodes(data, 10, 0)


def test_the_nearest_level_within_tolerance() -> None:
    levels = [Level(Path(str(share)), 0.0, share) for share in (0.0, 0.2, 0.36, 1.0)]
    assert snapshots._nearest(levels, 1 / 3, 0.1).share == 0.36
    with pytest.raises(DataError, match=r"0\.00, 0\.20, 0\.36, 1\.00"):
        snapshots._nearest(levels, 0.7, 0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An on-policy and an off-policy run, a checkpoint every 100 steps."""
    root = tmp_path_factory.mktemp("runs")
    agents: dict[str, Any] = {
        "mdpo": MDPOConfig(n_steps=50, net_arch=(8,), learning_rate=1e-2),
        "off_policy_mdpo": OffPolicyMDPOConfig(net_arch=(8,), batch_size=16, learning_starts=50, learning_rate=1e-2),
    }
    for name, agent in agents.items():
        run = RunConfig(
            env=TASK,
            n_envs=2,
            total_timesteps=400,
            checkpoint_every=100,
            keep_checkpoints=10,
            eval_every=0,
            device="cpu",
            run_dir=str(root / name),
        )
        train(name, run, agent)
    return {name: root / name for name in agents}


def make(level: str, run: Path | str, n: int = 60, **options: Any) -> Dataset:
    settings = {"seed": 1, "env_id": TASK, "episodes": 20, "n_envs": 2, "tolerance": 1.0, **options}
    return generate_snapshots(n, level=level, run=str(run), **settings)


def test_levels_of_a_run(runs: dict[str, Path]) -> None:
    both = f"{runs['mdpo']}, {runs['off_policy_mdpo']}"
    expert, medium = make("expert", both), make("medium", both)
    assert len(expert) == len(medium) == 60
    assert expert.metadata.reference_returns is not None and expert.metadata.env == TASK
    worst, best = expert.metadata.reference_returns
    assert worst < best and medium.metadata.reference_returns == (worst, best)
    assert "step-000000000" in medium.metadata.generator and "share 1.000" in expert.metadata.generator
    again = make("expert", both)
    np.testing.assert_array_equal(again.actions, expert.actions)
    assert not np.array_equal(make("expert", both, seed=2).actions, expert.actions)
    assert make("random", "").metadata.reference_returns is None
    assert make("random", both).metadata.reference_returns == (worst, best)


def test_the_replay_up_to_medium(runs: dict[str, Path]) -> None:
    data = make("medium-replay", runs["off_policy_mdpo"], n=80)
    assert "replay buffer" in data.metadata.generator
    step = data.metadata.generator.split("(")[1].split(")")[0]
    checkpoint = runs["off_policy_mdpo"] / "checkpoints" / step
    rewards = read_checkpoint(checkpoint).trees["replay"]["rows"]["rewards"]
    assert set(data.rewards.tolist()) <= set(rewards.ravel().tolist())
    with pytest.raises(DataError, match="or less"):
        make("medium-replay", runs["off_policy_mdpo"], n=10_000)
    rolled = make("medium-replay", runs["mdpo"], n=81)
    assert len(rolled) == 81 and "equal shares" in rolled.metadata.generator
    assert len(list_checkpoints(runs["mdpo"] / "checkpoints")) >= 4


def test_mistakes_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --run"):
        make("medium", "")
    with pytest.raises(DataError, match="a run in rlopt/RandomTarget-v0, not in Hopper-v5"):
        make("expert", runs["mdpo"], env_id="Hopper-v5")
    with pytest.raises(DataError, match="holds no checkpoints"):
        make("expert", tmp_path)
    with pytest.raises(ConfigError, match="medium_fraction"):
        make("medium", runs["mdpo"], medium_fraction=1.5)
