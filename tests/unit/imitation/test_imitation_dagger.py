"""DAgger: whose actions are done and which are stored, who may be asked, exact resume, learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from demonstrated import TASK, demonstrations, straight
from reach import SMALL, Reach, assert_same, vec_env
from runs import leaves
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.cli.main import main
from rlopt.errors import ConfigError, SpaceError
from rlopt.optim.lockstep import Lockstep


def make(expert: Any = straight, env: Any = None, **changes: Any) -> Any:
    return rlopt.DAgger("MlpPolicy", vec_env() if env is None else env, expert, **{"seed": 5, **SMALL, **changes})


def scaled(actions: np.ndarray) -> np.ndarray:
    low, high = Reach.action_space.low, Reach.action_space.high  # type: ignore[attr-defined]
    return 2 * (actions - low) / (high - low) - 1


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("beta_steps", [0, 10**9])
def test_the_expert_s_answer_is_stored_whoever_acts(beta_steps: int, normalised: bool) -> None:
    env = VecNormalize(vec_env()) if normalised else vec_env()
    model = make(env=env, beta_steps=beta_steps, learning_starts=100).learn(40)
    buffer, rows = model.replay_buffer, slice(0, 40)
    seen = buffer.observations[rows, 0]
    advice = scaled(straight(seen))
    assert np.allclose(buffer.actions[rows, 0], advice, atol=1e-6)
    own = model.predict(env.normalize_obs(seen) if normalised else seen, deterministic=True)[0]
    done = straight(seen) if beta_steps else own
    inside = ~buffer.dones[rows, 0].astype(bool)
    moved = np.clip(seen + 0.1 * done, -10, 10)
    if not (normalised and not beta_steps):  # there the statistics have moved on since
        assert np.allclose(buffer.next_observations[rows, 0][inside], moved[inside], atol=1e-5)


def test_the_expert_acts_as_often_as_beta_says() -> None:
    asked: list[int] = []
    model = make(beta_steps=200, learning_starts=1000, env=vec_env(2))
    draws = np.random.RandomState(0).random_sample(400)
    shares = np.maximum(1 - np.arange(0, 400, 2) / 200, 0).repeat(2)
    wanted = int((draws < shares).sum())
    own = model.predict(np.zeros((1, 2), np.float32), deterministic=True)[0]
    assert not np.allclose(own, 0)
    model.set_expert(lambda observations: np.full((len(observations), 2), 0.5, np.float32))
    step = model.env.step_async
    model.env.step_async = lambda actions: asked.append(int((actions == 0.5).all(axis=1).sum())) or step(actions)
    np.random.seed(0)
    model.set_random_seed = lambda seed=None: None
    model.learn(400)
    assert sum(asked) == wanted


def test_an_expert_is_a_model_a_folder_a_zip_or_a_function(tmp_path: Path) -> None:
    theirs = stable_baselines3.SAC("MlpPolicy", vec_env(), policy_kwargs={"net_arch": [8]}, seed=3, device="cpu")
    theirs.save(tmp_path / "expert.zip")
    ours = rlopt.SAC("MlpPolicy", rlopt.make_env(TASK), seed=2, **SMALL)  # type: ignore[arg-type]
    ours.boundary_hook = lambda model: model.num_timesteps < 5
    save_checkpoint(ours.learn(20), tmp_path / "run" / "checkpoints")
    seen = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    wanted = theirs.predict(seen, deterministic=True)[0]
    for expert in (
        theirs,
        tmp_path / "expert.zip",
        lambda observations: theirs.predict(observations, None, None, True)[0],
    ):
        assert np.allclose(make(expert).asked(seen), wanted, atol=1e-6)
    found = make(str(tmp_path / "run" / "checkpoints"), env=rlopt.make_env(TASK)).asked(seen)
    assert np.array_equal(found, ours.predict(seen, deterministic=True)[0])


def test_who_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="has none: give expert"):
        make(None).learn(10)
    with pytest.raises(ConfigError, match="no predict and is not a function"):
        make(3)
    with pytest.raises(SpaceError, match="the expert has the observation_space"):
        make(rlopt.SAC("MlpPolicy", "Pendulum-v1", device="cpu"))
    with pytest.raises(SpaceError, match=r"actions are \(1, 3\)"):
        make(lambda observations: np.zeros((1, 3))).learn(5)
    with pytest.raises(SpaceError, match=r"for discrete actions use rlopt\.GAIL or rlopt\.BC"):
        rlopt.DAgger("MlpPolicy", rlopt.make_env("rlopt/Corridor-v0"))


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    def expert(seed: int) -> Any:
        return rlopt.SAC("MlpPolicy", rlopt.make_env(TASK), seed=seed, **SMALL)  # type: ignore[arg-type]

    def model(stop: int, asked: Any) -> Any:
        made = make(asked, VecMonitor(rlopt.make_env(TASK, n_envs=2, seed=1)), beta_steps=60, buffer_size=60)
        made.boundary_hook = lambda learner: learner.num_timesteps < stop
        return made

    first = expert(1)
    whole = model(90, first).learn(1000)
    path = save_checkpoint(model(46, first).learn(1000), tmp_path)
    torch.rand(3), np.random.rand(3)
    again = learn_from(model(90, first), read_checkpoint(path).trees, 1000)
    assert leaves(dict(capture_state(whole))) == leaves(dict(capture_state(again)))
    with pytest.raises(ConfigError, match="asked another expert"):
        learn_from(model(90, expert(2)), read_checkpoint(path).trees, 1000)


def test_stacked_seeds_are_each_alone_and_learn_what_the_expert_does() -> None:
    def job(seed: int, stacked: bool) -> Any:
        def learn() -> Any:
            model = make(seed=seed, compile="off", demonstrations=demonstrations(), learning_rate=3e-3, beta_steps=100)
            model._mode = (lambda parts: "eager") if stacked else (lambda parts: None)
            return model.learn(300)

        return learn

    together = Lockstep([job(seed, True) for seed in (1, 2)]).run()
    alone = job(2, False)()
    assert_same(together[1], alone, 1e-4)
    seen = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    before = make(seed=2).predict(seen, deterministic=True)[0]
    after = alone.predict(seen, deterministic=True)[0]
    errors = [np.square(scaled(acts) - scaled(straight(seen))).mean() for acts in (before, after)]
    assert errors[1] < 0.2 * errors[0]


def test_the_command_line_asks_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expert, run = str(tmp_path / "expert"), str(tmp_path / "run")
    quiet = ["--env", TASK, "--total-timesteps", "40", "--eval-every", "0", "--device", "cpu"]
    assert main(["train", "sac", *quiet, "--run-dir", expert]) == 0
    assert main(["train", "dagger", *quiet, "--expert", expert, "--learning-starts", "10", "--run-dir", run]) == 0
    assert main(["resume", run, "--total-timesteps", "60"]) == 0
    capsys.readouterr()
    assert main(["train", "dagger", *quiet, "--run-dir", run + "2"]) == 2
    assert "no expert to ask at nowhere: give --expert" in capsys.readouterr().err
