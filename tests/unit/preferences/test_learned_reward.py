"""Training on a learned reward: replay, logs, exact resume, and which agents take it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecMonitor

import rlopt
from rlopt.agents.imitation.config import GAILConfig
from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.agents.offline.config import BCConfig
from rlopt.agents.ppo.config import PPOConfig
from rlopt.agents.sac.config import SACConfig
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.errors import CheckpointError, ConfigError, DataError
from rlopt.preferences import (
    LearnedReward,
    PreferenceCallback,
    PreferenceConfig,
    PreferenceLearner,
    load_preferences,
    save_preferences,
)
from rlopt.runs.train import resume, train
from rlopt.settings.run import RunConfig
from tests.helpers.runs import leaves, read_csv

QUICK: dict[str, Any] = {
    "labels": 12, "query_every": 40, "labels_per_query": 4, "fragment_length": 8, "candidates": 3, "fit_steps": 3,
    "reward_net_arch": (8,), "recent_steps": 100,
}  # fmt: skip
SMALL_SAC = SACConfig(learning_starts=20, batch_size=8, net_arch=(8,), buffer_size=500)


def folder(path: Path, **changes: Any) -> Path:
    return save_preferences(path, PreferenceConfig(**{**QUICK, **changes}))


def settings(path: Path, reward: Path, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "env": "Pendulum-v1", "total_timesteps": 160, "checkpoint_every": 50, "eval_every": 0, "log_every": 40,
        "device": "cpu", "run_dir": str(path), "reward": str(reward), "max_episode_steps": 30,
    }  # fmt: skip
    return RunConfig(**{**base, **changes})


def made(n_envs: int = 2, **changes: Any) -> LearnedReward:
    env = VecMonitor(rlopt.make_env("Pendulum-v1", n_envs=n_envs, max_episode_steps=30))
    config = PreferenceConfig(**{**QUICK, **changes})
    return LearnedReward(env, PreferenceLearner(config, env.observation_space, env.action_space, seed=3))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_relabelled_replay_equals_recomputed_rewards(n_steps: int) -> None:
    env = made()
    model = rlopt.SAC("MlpPolicy", env, learning_starts=20, batch_size=8, buffer_size=400, n_steps=n_steps, seed=0)
    model.learn(120, callback=PreferenceCallback())
    assert env.learner.model.fits == 2 and len(env.learner.preferences) == 8
    assert env.learn(120, model)
    buffer: Any = model.replay_buffer
    filled = buffer.pos
    expected = env.learner.model.rewards(
        torch.from_numpy(buffer.observations[:filled].reshape(-1, 3)),
        torch.from_numpy(buffer.actions[:filled].reshape(-1, 1)),
    )
    assert filled == 60 and expected.abs().max() > 0
    np.testing.assert_array_equal(buffer.rewards[:filled].reshape(-1), expected.numpy())


def test_what_the_wrapper_gives_is_what_the_replay_would_be_given() -> None:
    """Actions in the environment's units and in the buffer's are one; returns in the log are the environment's."""
    env = made(n_envs=1, labels=4)
    model = rlopt.SAC("MlpPolicy", env, learning_starts=20, batch_size=8, buffer_size=400, seed=0)
    model.learn(90, callback=PreferenceCallback(env))
    buffer: Any = model.replay_buffer
    given = buffer.rewards[:90].copy()
    env.relabel(buffer)
    np.testing.assert_allclose(buffer.rewards[:90], given, atol=1e-5)
    assert model.ep_info_buffer is not None
    assert all(episode["r"] < -20 for episode in model.ep_info_buffer)  # Pendulum's own, not ones of deviation 1


def test_a_run_that_ends_before_the_first_question_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    env = made(query_every=20)
    model = rlopt.PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu")
    model.learn(32, callback=PreferenceCallback())
    assert "nothing was asked, so every reward was 0" in capsys.readouterr().out
    model.learn(64, callback=PreferenceCallback(), reset_num_timesteps=False)
    assert env.learner.model.fits and "nothing was asked" not in capsys.readouterr().out


def test_the_questions_are_those_on_which_the_models_disagree_most() -> None:
    env = made(n_envs=1, ensemble=4)
    rng = np.random.default_rng(0)
    env.reset()
    for _ in range(90):
        env.step(rng.uniform(-2, 2, (1, 1)).astype(np.float32))
    learner = env.learner
    learner.ask(env.trajectories)
    learner.fit()
    drawn = env.trajectories.draw(60, 8, rng)
    assert drawn is not None
    options = np.arange(60).reshape(-1, 2)
    scores = learner.model.member_returns(drawn)[:, options]
    disagreement = (1 / (1 + np.exp(scores[:, :, 1] - scores[:, :, 0]))).var(axis=0)
    chosen = learner.informative(drawn, options)
    np.testing.assert_allclose(disagreement[chosen], np.sort(disagreement)[::-1], rtol=1e-4)


@pytest.mark.parametrize("agent", ["sac", "ppo"])
def test_a_run_continues_exactly(tmp_path: Path, agent: str) -> None:
    config = SMALL_SAC if agent == "sac" else PPOConfig(n_steps=20, batch_size=20, n_epochs=1, net_arch=(8,))
    reward = folder(tmp_path / "preferences", compare=3, teacher="noisy")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(agent, settings(whole, reward, normalize_rewards=agent == "ppo"), config)
    shutil.copytree(whole, cut)
    for path in list_checkpoints(cut / "checkpoints")[1:]:
        shutil.rmtree(path)
    resume(cut)
    last = [read_checkpoint(list_checkpoints(run / "checkpoints")[-1]) for run in (whole, cut)]
    assert last[0].step == last[1].step == 160
    assert leaves(dict(last[0].trees)) == leaves(dict(last[1].trees))
    rows = read_csv(whole / "progress.csv")
    assert rows == read_csv(cut / "progress.csv") and rows[-1]["reward/labels"] == "12"
    assert len(load_preferences(whole).preferences or ()) == 12


def test_a_second_run_takes_the_answers_and_the_model_of_the_first(tmp_path: Path) -> None:
    reward = folder(tmp_path / "preferences")
    train("sac", settings(tmp_path / "first", reward), SMALL_SAC)
    first = load_preferences(tmp_path / "first")
    assert first.model["fits"] == 3
    policy = MDPOConfig(n_steps=20, net_arch=(8,), value_batch_size=20, n_epochs=1)
    train("mdpo", settings(tmp_path / "second", tmp_path / "first"), policy)
    second = load_preferences(tmp_path / "second")
    assert leaves(second.model) == leaves(first.model)  # all labels are there: nothing is asked or fitted
    assert len(load_preferences(reward).preferences or ()) == 0  # a run changes no folder


def test_who_takes_no_learned_reward_says_so(tmp_path: Path) -> None:
    reward = folder(tmp_path / "preferences")
    with pytest.raises(ConfigError, match="--reward"):
        train("bc", settings(tmp_path / "bc", reward), BCConfig(dataset="none"))
    with pytest.raises(ConfigError, match="not from rewards"):
        train("gail", settings(tmp_path / "gail", reward), GAILConfig(demos="none"))
    with pytest.raises(ConfigError, match="--demos or --reward"):
        train("sac", settings(tmp_path / "both", reward), dataclasses.replace(SMALL_SAC, demos="none"))
    with pytest.raises(DataError, match="holds no preferences"):
        train("sac", settings(tmp_path / "sac", tmp_path), SMALL_SAC)
    model = rlopt.SAC("MlpPolicy", made(), replay_buffer_class=ReplayBuffer, learning_starts=20)
    with pytest.raises(ConfigError, match="cannot be relabelled"):
        model.learn(10, callback=PreferenceCallback())
    with pytest.raises(ConfigError, match="no LearnedReward"):
        rlopt.SAC("MlpPolicy", "Pendulum-v1").learn(10, callback=PreferenceCallback())


def test_answers_about_another_environment_are_refused(tmp_path: Path) -> None:
    reward = folder(tmp_path / "preferences")
    train("sac", settings(tmp_path / "first", reward), SMALL_SAC)
    with pytest.raises(DataError, match=r"observations of shape \(3,\)"):
        load_preferences(tmp_path / "first").learner(*_spaces("InvertedPendulum-v5"))
    config = PreferenceConfig(**{**QUICK, "reward_net_arch": (4,)})
    learner = PreferenceLearner(config, *_spaces("Pendulum-v1"))
    tree = made().learner.tree()
    with pytest.raises(CheckpointError, match="other networks"):
        learner.restore(tree)


def _spaces(name: str) -> tuple[Any, Any]:
    env = rlopt.make_env(name)
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces
