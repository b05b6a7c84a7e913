"""Evaluations whose episodes are played by the processes of an engine: the same ones, whoever plays them or dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fragile_env
import numpy as np
import pytest
import torch

from rlopt import MDPO, evaluate, load, make_env
from rlopt.checkpoint.files import write_checkpoint
from rlopt.checkpoint.model_state import capture_state
from rlopt.cli.main import main
from rlopt.console.signals import StopRequest
from rlopt.engine import Engine, Job, JobContext, make_engine
from rlopt.envs.settings import EnvSettings, derive_seeds
from rlopt.errors import ConfigError, RunError, SpaceError, UnknownNameError
from rlopt.evaluation.evaluate import EvaluationResult
from rlopt.evaluation.parallel import PLAY, evaluate_on_engine, joined, play
from rlopt.run_folder import read_json


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with make_engine("local", workers=2) as local:
        local.retry_seconds = 0.1
        yield local


def trained_in(env: EnvSettings, folder: Path) -> Path:
    venv = make_env(**env.as_dict())
    model = MDPO("MlpPolicy", venv, n_steps=8, value_batch_size=8, policy_kwargs={"net_arch": [4]}, device="cpu")
    metadata = {"agent": "mdpo", "env": env.as_dict(), "run": {"num_threads": 1}}
    write_checkpoint(folder / "checkpoints", 8, capture_state(model), metadata)
    venv.close()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_in(EnvSettings("Pendulum-v1", max_episode_steps=30), tmp_path_factory.mktemp("runs") / "pendulum")


def fragile(folder: Path, **kwargs: Any) -> EnvSettings:
    return EnvSettings(fragile_env.ID, env_kwargs={"folder": str(folder), **kwargs})


def processes_of(traces: Path) -> set[int]:
    path = traces / "episodes.txt"
    return {int(line.split()[1]) for line in path.read_text().splitlines()} if path.is_file() else set()


def assert_same(found: EvaluationResult, wanted: EvaluationResult) -> None:
    ours, theirs = (result.as_dict() for result in (found, wanted))
    for name in ("seconds", "env_steps_per_second"):
        del ours[name], theirs[name]
    assert ours == theirs


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_episodes_are_those_of_the_parts_in_one_process(run: Path, engine: Engine, deterministic: bool) -> None:
    found = evaluate_on_engine(engine, run, 11, n_envs=4, seed=5, deterministic=deterministic)
    model, task = load(run, device="cpu"), EnvSettings("Pendulum-v1", max_episode_steps=30)
    parts = [
        evaluate(model, task, size, n_envs=size, seed=seed, deterministic=deterministic)
        for size, seed in zip((4, 4, 3), derive_seeds(5, 3), strict=True)
    ]
    assert np.array_equal(found.returns, np.concatenate([part.returns for part in parts]))
    assert len(set(found.returns)) == 11
    assert found.lengths.tolist() == [30] * 11 and found.truncated.all() and found.env_steps == 330
    assert (found.n_envs, found.seed, found.deterministic, found.success_rate) == (4, 5, deterministic, None)
    low, high = found.interval
    assert found.returns.min() <= low <= found.iqm <= high <= found.returns.max()


def test_the_number_of_processes_changes_nothing(run: Path, engine: Engine) -> None:
    wanted = evaluate_on_engine(engine, run, 9, n_envs=2, deterministic=False)
    with make_engine("local", workers=1) as alone:
        assert_same(evaluate_on_engine(alone, run, 9, n_envs=2, deterministic=False), wanted)
    other = evaluate_on_engine(engine, run, 9, n_envs=2, deterministic=False, seed=1)
    assert not set(other.returns) & set(wanted.returns)


def test_every_episode_counts_once_when_processes_die(engine: Engine, tmp_path: Path) -> None:
    run = trained_in(fragile(tmp_path / "training"), tmp_path / "run")
    told: list[tuple[int, int]] = []
    found, wanted = (
        evaluate_on_engine(engine, run, 8, env=fragile(tmp_path / name, fatal=fatal), n_envs=2, on_episode=hear)
        for name, fatal, hear in (("dying", 3, lambda *counts: told.append(counts)), ("well", 0, None))
    )
    assert_same(found, wanted)
    assert len(list((tmp_path / "dying").glob("death*"))) == 3
    assert told[-1] == (8, 8) and max(told) == (8, 8)


def test_what_fails_each_time_is_told_and_no_more_is_begun(engine: Engine, tmp_path: Path) -> None:
    run = trained_in(fragile(tmp_path / "training"), tmp_path / "run")
    with pytest.raises(RunError, match=r"episodes could not be run: .*RuntimeError: the joint is loose"):
        evaluate_on_engine(engine, run, 40, env=fragile(tmp_path / "broken", broken=True), n_envs=1, retries=0)
    assert len((tmp_path / "broken" / "episodes.txt").read_text().splitlines()) < 20


def part(returns: list[float], success_rate: float | None) -> dict[str, Any]:
    columns = {"returns": returns, "lengths": [1] * len(returns), "truncated": [False] * len(returns)}
    return {"episodes": len(returns), "env_steps": len(returns), "success_rate": success_rate, **columns}


def test_parts_of_different_sizes_count_by_their_episodes() -> None:
    found = joined([part([1.0, 2.0, 3.0], 1 / 3), part([9.0], 1.0)], False, 7, 3, 0.9, 2.0)
    assert found.returns.tolist() == [1.0, 2.0, 3.0, 9.0] and found.success_rate == 0.5
    assert found.env_steps_per_second == 2.0 and found.confidence == 0.9
    assert joined([part([1.0], 1.0), part([2.0], None)], False, 0, 1, 0.9, 1.0).success_rate is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_episodes": 0}, ConfigError, "n_episodes must be at least 1"),
        ({"n_envs": 0}, ConfigError, "n_envs must be in"),
        ({"confidence": 1.0}, ConfigError, "confidence must be in"),
        ({"policy": "mixtur"}, UnknownNameError, "unknown policy 'mixtur'"),
        ({"env": "CartPole-v1"}, SpaceError, "the model's observation space"),
        ({"device": "warp"}, RunError, "could not be run: .*warp"),
    ],
)
def test_bad_input_is_one_clear_error(
    run: Path, engine: Engine, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate_on_engine(engine, run, **arguments)


def test_the_command_says_and_writes_what_the_function_returns(
    run: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(run), "--episodes", "6", "--seed", "3", "--n-envs", "2", "--stochastic"]
    assert main([*line, "--engine", "local", "--workers", "2"]) == 0
    wanted = evaluate_on_engine(engine, run, 6, n_envs=2, seed=3, deterministic=False)
    printed = capsys.readouterr().out
    assert (
        f"{wanted.iqm:.1f}" in printed
        and "2 environments in each of 3 jobs, local engine, its start included" in printed
    )
    written: Any = read_json(run / "evaluation.json")
    assert written["returns"] == wanted.returns.tolist() and written["engine"] == "local"
    assert main(line) == 0
    written = read_json(run / "evaluation.json")
    assert written["engine"] is None and written["returns"] != wanted.returns.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers needs an engine: add --engine local or ray"),
        (["--gpus-per-job", "0.5"], "--gpus-per-job needs an engine"),
        (["--address", "auto"], "--address needs an engine"),
        (["--engine", "locl"], "unknown engine 'locl': did you mean 'local'"),
        (["--engine", "local", "--address", "auto"], "--address needs a Ray cluster: add --engine ray"),
        (["--engine", "local", "--workers", "0"], "--workers: 0 is outside"),
        (["--engine", "ray", "--gpus-per-job", "0.5"], "--device cpu leaves idle: add --device cuda"),
    ],
)
def test_the_command_refuses_before_anything_is_loaded(
    run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_checkpoint_that_changed_is_not_mistaken_for_the_one_before(engine: Engine, tmp_path: Path) -> None:
    task = EnvSettings("Pendulum-v1", max_episode_steps=30)
    found = []
    for number in (1, 2):
        torch.manual_seed(number)
        run = trained_in(task, tmp_path / "run")
        found.append(evaluate_on_engine(engine, run, 4, n_envs=4))
        (seed,) = derive_seeds(0, 1)
        assert np.array_equal(found[-1].returns, evaluate(load(run), task, 4, n_envs=4, seed=seed).returns)
    assert not np.array_equal(found[0].returns, found[1].returns)
    arguments = {"n_episodes": 1, "seed": 0, "policy": "last", "env": task.as_dict(), "deterministic": True}
    job = Job("other", PLAY, {"checkpoint": str(run), "fingerprint": "0", "device": "cpu", **arguments})
    with pytest.raises(ConfigError, match="put the run on storage that all machines see"):
        play(JobContext("other", 0, None, StopRequest(), print), **job.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    run = trained_in(fragile(tmp_path / "training"), tmp_path / "run")
    traces = tmp_path / "traces"
    kwargs = json.dumps({"folder": str(traces), "seconds": 0.2})
    task = ["--episodes", "400", "--n-envs", "1", "--env", fragile_env.ID, "--env-kwargs", kwargs]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlopt.cli.main", "evaluate", str(run), *task, "--engine", "local", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(processes_of(traces)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "giving up the current work" in errors
    workers = processes_of(traces)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/stat").is_file() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}/stat").is_file() for pid in workers)
    assert not (run / "evaluation.json").exists()
