"""Sweeps: which runs they are, mistakes in one line, killed and continued, what the summary says."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_line import refused
from runs import assert_same_result

from rlopt.cli.main import main
from rlopt.console.signals import StopRequest
from rlopt.engine import Job, JobContext, JobResult, JobStopped
from rlopt.engine.display import Display
from rlopt.errors import ConfigError, RunError
from rlopt.run_folder import run_folders
from rlopt.sweeps.job import train_or_resume
from rlopt.sweeps.spec import SweepSpec, expand, parse_grid, spec_from
from rlopt.sweeps.sweep import (
    EngineOptions,
    SweepFolder,
    check_shard,
    default_sweep_folder,
    format_table,
    run_sweep,
    summarise,
)

SMALL = {
    "n_envs": 2, "n_steps": 16, "net_arch": [8], "value_batch_size": 16, "n_epochs": 1, "n_value_epochs": 1,
    "device": "cpu", "total_timesteps": 320, "checkpoint_every": 64, "eval_every": 128, "eval_episodes": 2,
    "log_every": 32,
}  # fmt: skip
ENV = "rlopt/RandomTarget-v0"


def spec(**changes: Any) -> SweepSpec:
    base: dict[str, Any] = {"agent": "mdpo", "env": ENV, "seeds": "0..1", "settings": SMALL}
    return spec_from({**base, **changes}, "sweep")


def test_every_combination_is_a_run_of_its_own(tmp_path: Path) -> None:
    runs = expand(
        spec(env=[ENV, "Pendulum-v1"], seeds="0..2", set={"step_size": ["1e-1", 0.3], "n_epochs": [1, 2]}, settings={}),
        tmp_path,
    )
    assert len(runs) == 2 * 3 * 2 * 2 and len({run.job.name for run in runs}) == len(runs)
    settings = {
        (
            run.env,
            run.seed,
            run.job.arguments["agent_config"]["step_size"],
            run.job.arguments["agent_config"]["n_epochs"],
        )
        for run in runs
    }
    assert len(settings) == len(runs) and {each[2] for each in settings} == {0.1, 0.3}
    assert runs[0].job.name == "mdpo-rlopt_RandomTarget-v0-step_size=0.1-n_epochs=1/seed0"
    assert runs[0].setting == "step_size=0.1 n_epochs=1"
    assert {run.job.arguments["run"]["run_dir"] for run in runs} == {str(tmp_path / run.job.name) for run in runs}


def test_a_preset_gives_the_task_and_settings_override_it(tmp_path: Path) -> None:
    (run,) = expand(
        spec(env=None, preset="mujoco/half_cheetah", seeds=3, settings={"total_timesteps": "2e3"}), tmp_path
    )
    assert run.env == "HalfCheetah-v5" and run.seed == 3 and run.job.arguments["run"]["total_timesteps"] == 2000
    assert run.job.arguments["run"]["preset"] == "mujoco/half_cheetah"


def test_long_settings_make_short_names(tmp_path: Path) -> None:
    runs = expand(spec(settings={}, set={"net_arch": [[64] * 60, [64] * 61]}), tmp_path)
    assert all(len(run.group) < 120 for run in runs) and len({run.group for run in runs}) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"learnin_rate": 1}}, "unknown setting 'learnin_rate': did you mean 'learning_rate'"),
        ({"set": {"learnin_rate": [1]}}, "unknown setting 'learnin_rate': did you mean 'learning_rate'"),
        ({"agent": "mdp"}, "unknown agent 'mdp': did you mean 'mdpo'"),
        ({"seed": 3}, "unknown key 'seed': did you mean 'seeds'"),
        ({"settings": {"seed": 3}}, "a sweep has its own seed: use --seeds"),
        ({"settings": {"run_dir": "x"}}, "use --sweep-dir"),
        ({"agent": []}, "the sweep is empty"),
        ({"set": {"gamma": []}}, "the sweep is empty: gamma has no values"),
        ({"set": {"gamma": [0.9, 1.5]}}, r"gamma = 1.5 is outside \[0, 1\]"),
        ({"set": {"gamma": ["0.9", 0.90]}}, "two runs of the sweep are the same"),
        ({"set": {"n_steps": [8, 16]}}, "n_steps is given once and for all, and with several values"),
        ({"env": [ENV, ENV]}, "env: rlopt/RandomTarget-v0 is named twice"),
        ({"env": 3}, "env must be a name or a list of names"),
        ({"seeds": "3..1"}, "'3..1' is not a seed"),
        ({"env": None}, "no environment given"),
        ({"preset": "no/such"}, "unknown preset"),
        ({"set": {"seed": [1]}}, "use --seeds"),
        ({"settings": 3}, "settings must hold lines"),
        ({"seeds": "0..999", "set": {"gamma": [i / 1000 for i in range(1, 200)]}}, "199,000 runs: give at most"),
    ],
)
def test_mistakes_are_found_before_the_first_run(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(spec(**changes), tmp_path)


def test_mistakes_on_the_command_line_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = ("--agent", "mdpo", "--env", ENV)
    assert "the sweep is empty" in refused(capsys, "sweep")
    assert "did you mean '--learning-rate'" in refused(capsys, "sweep", *some, "--learnin-rate", "3")
    assert "did you mean '--workers'" in refused(capsys, "sweep", *some, "--worker", "3")
    assert "did you mean 'learning_rate'" in refused(capsys, "sweep", *some, "--set", "learnin_rate=1,2")
    assert "write name=value,value" in refused(capsys, "sweep", *some, "--set", "gamma=")
    assert "gamma is given twice" in refused(capsys, "sweep", *some, "--set", "gamma=0.9", "gamma=0.8")
    assert "did you mean 'ray'" in refused(capsys, "sweep", *some, "--engine", "rai")
    assert "add --engine ray" in refused(capsys, "sweep", *some, "--address", "auto")
    assert "--shard '3/3'" in refused(capsys, "sweep", *some, "--shard", "3/3")
    assert "cannot be read" in refused(capsys, "sweep", "none.yaml")
    Path("empty.yaml").touch()
    assert "the sweep is empty: empty.yaml must hold" in refused(capsys, "sweep", "empty.yaml")
    Path("odd.yaml").write_text("agent: [")
    assert "not valid YAML" in refused(capsys, "sweep", "odd.yaml")
    Path("misspelt.yaml").write_text("agents: mdpo")
    assert "misspelt.yaml: unknown key 'agents': did you mean 'agent'" in refused(capsys, "sweep", "misspelt.yaml")
    assert not Path("runs").exists()


def test_ray_that_is_missing_or_does_not_answer_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = ("--agent", "mdpo", "--env", ENV, "--engine", "ray")
    with socket.socket() as free:  # bound but not listening: nobody answers there
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert f"no Ray cluster answers at {address}" in refused(capsys, "sweep", *some, "--address", address)
    assert "'head' is not an address" in refused(capsys, "sweep", *some, "--address", "head")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", "darwin")
        assert "the engine ray is for Linux: use --engine local" in refused(capsys, "sweep", *some)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'rlopt[ray]'" in refused(capsys, "sweep", *some)
    assert not Path("runs").exists()


def test_the_file_and_its_flags(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(
        f"agent: mdpo\nenv: {ENV}\nseeds: [0, 4]\nsettings: {{total_timesteps: 1e3}}\nset: {{step_size: [1e-1, 0.3]}}\n"
    )
    assert main(["sweep", "my.yaml", "--dry-run", "--seeds", "7", "--total-timesteps", "50"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "open    mdpo-rlopt_RandomTarget-v0-step_size=0.1/seed7"
    assert first[-1].startswith("2 runs in runs/sweep-my-") and first[-1].endswith(": 2 open")
    assert main(["sweep", "my.yaml", "--dry-run", "--step-size", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 1
    assert main(["sweep", "my.yaml", "--dry-run", "--shard", "1/3"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("step_size=0.1/seed4")
    assert not Path("runs").exists()


def test_grid_and_shards_are_read() -> None:
    assert parse_grid(["net-arch=64 64,256", "gamma=0.9"]) == {"net_arch": ("64 64", "256"), "gamma": ("0.9",)}
    assert check_shard("0/1") == (0, 1) and check_shard("15/16") == (15, 16)
    for text in ("1", "1/1", "-1/4", "a/b", "1/"):
        with pytest.raises(ConfigError):
            check_shard(text)


def test_the_folder_of_a_sweep_is_its_own(tmp_path: Path) -> None:
    assert default_sweep_folder(spec()) == default_sweep_folder(spec()) != default_sweep_folder(spec(seeds="0..2"))
    folder = SweepFolder(tmp_path / "sweep")
    folder.require_same(spec())
    folder.write_spec(spec(), EngineOptions(workers=3))
    read, options = folder.read_spec()
    assert read.digest == spec().digest and options == EngineOptions(workers=3)
    folder.require_same(spec())
    with pytest.raises(RunError, match=r"another sweep \(seeds is 0..1 there, 0..2 here\)"):
        folder.require_same(spec(seeds="0..2"))
    folder.config.write_text("{}")
    with pytest.raises(RunError, match="damaged"):
        folder.read_spec()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="exists"):
        SweepFolder(tmp_path / "other").require_same(spec())


def test_the_summary_is_the_interquartile_mean_over_seeds(tmp_path: Path) -> None:
    """Of 1, 2, 3, 10 the middle half is 2 and 3; a run that failed and one that is open are not in it."""
    runs = expand(spec(seeds="0..5", set={"step_size": [0.1, 0.3]}), tmp_path)
    results = {
        run.job.name: JobResult(run.job.name, "done", {"step": 320, "return": value, "best_return": value})
        for run, value in zip(runs, [1.0, 2.0, 3.0, 10.0], strict=False)
    }
    results[runs[4].job.name] = JobResult(runs[4].job.name, "failed", failures=("no",))
    results[runs[6].job.name] = JobResult(runs[6].job.name, "done", {"step": 160, "return": None, "best_return": None})
    first, second = summarise(runs, results)
    assert (first.seeds, first.done, first.failed, first.steps, first.iqm) == (6, 4, 1, 320, 2.5)
    assert first.low is not None and first.high is not None and 1 <= first.low < 2.5 < first.high <= 10
    assert (second.done, second.iqm, second.low, second.steps) == (1, None, None, 160)
    lines = format_table([first, second])
    assert "4/6, 1 failed" in lines[1] and "2.5 [" in lines[1] and lines[2].endswith("-")


def test_the_table_of_a_terminal_fits_it_and_counts() -> None:
    display = Display(5, "2 workers", "env steps")
    display.known(JobResult("old", "done"))
    for name in ("a/seed0", "b/seed0"):
        display.started(Job(name, "engine_jobs:square"), 0)
    display.progress("a/seed0", 500, 1000, 12.34)
    lines = display.table(width=60, height=24)
    assert lines[0].startswith("1 of 5 jobs on 2 workers: 1 done, 2 running, 2 waiting")
    assert "50 %  500 of 1,000" in lines[1] and "return 12.3" in lines[1] and "starting" in lines[2]
    assert all(len(line) < 60 for line in lines)
    display.ended(JobResult("a/seed0", "failed", failures=("no",)))
    assert "1 done, 1 failed, 1 running, 2 waiting" in display.line()
    for index in range(30):
        display.started(Job(f"c{index}", "engine_jobs:square"), 0)
    assert len(display.table(80, 24)) <= 22 and display.table(80, 24)[-1].endswith("more")


@pytest.mark.slow
def test_a_run_as_a_job_is_the_run_alone_also_when_stopped(tmp_path: Path) -> None:
    """Stopped after its first evaluation and continued, in this process; then compared bit for bit."""
    (whole,) = expand(spec(seeds="0"), tmp_path / "whole")
    (parts,) = expand(spec(seeds="0"), tmp_path / "parts")
    reports: list[dict[str, Any]] = []
    value = train_or_resume(JobContext("one", 0, None, StopRequest(), reports.append), **whole.job.arguments)
    assert value["step"] == 320 and [r["step"] for r in reports if r["kind"] == "evaluated"] == [128, 256, 320]
    assert value["return"] == [r["value"] for r in reports if r["kind"] == "evaluated"][-1]
    stop = StopRequest()

    def stop_soon(report: dict[str, Any]) -> None:
        if report["kind"] == "evaluated":
            stop.received = signal.SIGTERM

    with pytest.raises(JobStopped):
        train_or_resume(JobContext("one", 0, tmp_path / "log.txt", stop, stop_soon), **parts.job.arguments)
    again = train_or_resume(
        JobContext("one", 1, tmp_path / "log.txt", StopRequest(), reports.append), **parts.job.arguments
    )
    assert again == value
    assert_same_result(tmp_path / "whole" / whole.job.name, tmp_path / "parts" / parts.job.name)
    assert "continuing from step-000000000128" in (tmp_path / "log.txt").read_text()
    done = train_or_resume(JobContext("one", 2, None, StopRequest(), reports.append), **parts.job.arguments)
    assert done == value  # complete already


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_ends_when_it_is_given_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """kill -9 of a run's process, then of the sweep itself; the same command ends every run, one of them fails."""
    command = [
        sys.executable, "-m", "rlopt.cli.main", "sweep", "--agent", "mdpo", "--env", ENV, "--seeds", "0..2", "--n-envs",
        "2", "--n-steps", "16", "--net-arch", "8", "--value-batch-size", "16", "--device", "cpu", "--total-timesteps",
        "3200", "--checkpoint-every", "640", "--eval-every", "1600", "--eval-episodes", "2", "--workers", "2",
        "--sweep-dir", str(tmp_path / "sweep"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list((tmp_path / "sweep").glob("*/seed0/checkpoints/step-*")):
        assert time.monotonic() < until and first.poll() is None
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    os.kill(workers[0], signal.SIGKILL)
    assert first.stdout is not None
    for line in first.stdout:
        if "will be tried again" in line:
            assert "SIGKILL" in line
            break
    else:
        pytest.fail("the death of a worker was not noticed")
    first.kill()
    first.wait()
    first.stdout.close()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 of 3 runs have ended" in done.stdout and "3/3" in done.stdout
    runs = run_folders(tmp_path / "sweep")
    assert [run.name for run in runs] == ["seed0", "seed1", "seed2"]
    summary = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    returns = []
    for run in runs:
        result = json.loads((tmp_path / "sweep" / "results" / runs[0].parent.name / f"{run.name}.json").read_text())
        assert result["status"] == "done" and result["value"]["step"] == 3200
        returns.append(result["value"]["return"])
    assert summary[0]["iqm"] == pytest.approx(np.mean(returns)) and summary[0]["seeds"] == summary[0]["done"] == 3
    assert main(["plot", str(tmp_path / "sweep"), "--key", "evaluation"]) == 0
    assert main(["resume", str(tmp_path / "sweep")]) == 0
    assert "3 of 3 runs have ended" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others_and_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    several = spec(env=[ENV, "NoSuchTask-v0"], seeds="0")
    result = run_sweep(several, tmp_path / "sweep")
    printed = capsys.readouterr().out
    assert result.exit_code == 2
    assert [result.results[run.job.name].status for run in result.runs] == ["done", "failed"]
    assert "NoSuchTask-v0" in printed and f"continue with: rlopt resume {tmp_path / 'sweep'}" in printed
    run = tmp_path / "sweep" / result.runs[0].job.name
    shutil.rmtree(run)  # a run that is thrown away is made again
    again = run_sweep(several, tmp_path / "sweep", shard=(0, 2))
    assert again.exit_code == 0 and (run / "config.json").is_file()
