"""Search of settings: its axes, mistakes in one line, what becomes of trials, killed and continued."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from one_line import refused

from rlopt.cli.main import main
from rlopt.engine import Job, JobResult
from rlopt.errors import ConfigError, RunError
from rlopt.run_folder import run_folders
from rlopt.sweeps.spec import SweepSpec
from rlopt.sweeps.sweep import EngineOptions
from rlopt.sweeps.tune import Trials, open_study, run_tune
from rlopt.sweeps.tune_spec import Axis, TuneFolder, TuneSpec, parse_axes

ENV = "rlopt/RandomTarget-v0"
STATES = optuna.trial.TrialState
FLAGS = [
    "tune", "--agent", "mdpo", "--env", ENV, "--n-envs", "2", "--n-steps", "16", "--net-arch", "8",
    "--value-batch-size", "16", "--n-epochs", "1", "--n-value-epochs", "1", "--device", "cpu", "--total-timesteps",
    "640", "--eval-every", "320", "--eval-episodes", "2", "--search", "step_size=0.05..1",
]  # fmt: skip


def spec(search: tuple[str, ...] = ("step_size=0.1..1",), seeds: str = "0,1", **changes: Any) -> TuneSpec:
    return TuneSpec(SweepSpec(("mdpo",), (ENV,), (), seeds, {"total_timesteps": 100}), search, **changes)


def trials(tune: TuneSpec, path: Path) -> tuple[Trials, optuna.Study]:
    study = open_study(tune, path)
    return Trials(optuna, study, tune, path, "2 workers"), study


def done(job: Job, value: float | None) -> JobResult:
    return JobResult(job.name, "done", {"step": 100, "return": value, "best_return": value})


def test_axes_are_read() -> None:
    assert parse_axes(["learning-rate=log:1e-5..1e-3", "n_steps=16..64", "gamma=0.9..0.99", "net_arch=8,64 64"]) == (
        Axis("learning_rate", 1e-5, 1e-3, log=True),
        Axis("n_steps", 16, 64, whole=True),
        Axis("gamma", 0.9, 0.99),
        Axis("net_arch", choices=("8", "64 64")),
    )


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([], "nothing to search"),
        (["learnin_rate=1,2"], "unknown setting 'learnin_rate': did you mean 'learning_rate'"),
        (["gamma=0.9"], "write name=low..high"),
        (["gamma=0.9,0.9"], "write name=low..high"),
        (["gamma=0.9..x"], "write name=low..high"),
        (["gamma"], "write name=low..high"),
        (["gamma=0.99..0.9"], "the lower end comes first"),
        (["learning_rate=log:0..1"], "begins above 0"),
        (["gamma=0.9..1.5"], r"gamma = 1.5 is outside \[0, 1\]"),
        (["gamma=0.9..0.95", "gamma=1,0.9"], "gamma is given twice"),
        (["seed=0..5"], "use --seeds"),
        (["total_timesteps=10..20"], "searched and given"),
    ],
)
def test_mistakes_are_found_before_the_first_trial(search: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(tuple(search)).check()


def test_mistakes_on_the_command_line_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "which agent?" in refused(capsys, "tune")
    assert "nothing to search" in refused(capsys, "tune", "--agent", "mdpo", "--env", ENV)
    assert "did you mean '--learning-rate'" in refused(capsys, *FLAGS, "--learnin-rate", "3")
    assert "did you mean 'median'" in refused(capsys, *FLAGS, "--pruner", "medain")
    assert "--trials: 0 is outside" in refused(capsys, *FLAGS, "--trials", "0")
    assert "a search needs evaluations" in refused(capsys, *FLAGS, "--eval-every", "0")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'rlopt[tune]'" in refused(capsys, *FLAGS)
    assert not Path("runs").exists()


def test_a_trial_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    search, study = trials(spec(trials=2), tmp_path)
    jobs = [job for job in search.jobs() if job is not None]
    assert [job.name for job in jobs] == [f"trial000{i}/seed{seed}" for i in (0, 1) for seed in (0, 1)]
    first, second, third, fourth = jobs
    assert first.arguments["agent_config"] == second.arguments["agent_config"] != third.arguments["agent_config"]
    search.ended(done(first, 1.0))
    assert study.trials[0].state == STATES.RUNNING
    search.ended(done(second, 4.0))
    assert study.trials[0].value == 2.5 and study.trials[0].state == STATES.COMPLETE
    assert study.trials[0].params["step_size"] == first.arguments["agent_config"]["step_size"]
    search.ended(done(third, 1.0))
    search.ended(JobResult(fourth.name, "failed", failures=("no",)))
    assert study.trials[1].state == STATES.FAIL


def test_a_trial_below_the_median_of_the_others_is_pruned_with_all_its_seeds(tmp_path: Path) -> None:
    """Five trials at 10, then one at 0 at the same step, judged once both its seeds are there."""
    search, study = trials(spec(trials=6), tmp_path)
    jobs = [job for job in search.jobs() if job is not None]
    for job in jobs[:10]:
        assert list(search.evaluated(job.name, 50, 10.0)) == []
        search.ended(done(job, 10.0))
    assert list(search.evaluated(jobs[10].name, 50, 0.0)) == []
    assert list(search.evaluated(jobs[11].name, 50, 0.0)) == [jobs[10].name, jobs[11].name]
    for job in jobs[10:]:
        search.ended(JobResult(job.name, "pruned", 0.0))
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE] * 5 + [STATES.PRUNED]
    assert study.trials[5].intermediate_values == {50: 0.0}


def test_a_search_without_pruner_prunes_nothing(tmp_path: Path) -> None:
    search, _ = trials(spec(trials=8, pruner="none"), tmp_path)
    jobs = [job for job in search.jobs() if job is not None]
    for index, job in enumerate(jobs):
        assert list(search.evaluated(job.name, 50, -float(index))) == []


def test_trials_of_a_killed_process_go_on_with_their_settings(tmp_path: Path) -> None:
    search, _ = trials(spec(trials=3), tmp_path)
    jobs = [job for job in search.jobs() if job is not None]
    search.ended(done(jobs[0], 1.0))
    search.ended(done(jobs[1], 1.0))
    search.ended(done(jobs[2], 5.0))  # its other seed was running when the process was killed
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 6, "half')
    again, study = trials(spec(trials=4), tmp_path)
    more = [job for job in again.jobs() if job is not None]
    assert [job.name for job in more[:4]] == [job.name for job in jobs[2:]]
    assert [job.arguments for job in more[:4]] == [job.arguments for job in jobs[2:]]
    assert len(more) == 6 and more[4].name == "trial0003/seed0"
    again.known(done(more[0], 5.0))
    again.ended(done(more[1], 7.0))
    assert study.trials[1].value == 6.0 and len(study.trials) == 4
    assert len({trial.params["step_size"] for trial in study.trials}) == 4


def test_a_search_begun_anew_at_every_trial_tries_what_one_process_would(tmp_path: Path) -> None:
    def search(folder: Path, processes: int) -> list[float]:
        folder.mkdir()
        for _ in range(processes):
            own, study = trials(spec(seeds="0", trials=12), folder)
            for count, job in enumerate(own.jobs()):
                step_size = study.trials[-1].params["step_size"]
                own.ended(done(job, -((step_size - 0.6) ** 2)))
                if processes > 1 and count == 0:
                    break
        return [trial.params["step_size"] for trial in study.trials]

    # More trials than the sampler draws without looking at the others.
    whole, pieces = (search(tmp_path / str(processes), processes) for processes in (1, 12))
    assert len(whole) == 12 and whole == pieces and len(set(whole)) == 12


def test_a_combination_that_no_run_can_take_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = TuneSpec.resolved

    def resolved(self: TuneSpec, values: dict[str, Any]) -> Any:
        if values.get("n_steps") == 16:
            raise ConfigError("16 does not go with the rest")
        return whole(self, values)

    monkeypatch.setattr(TuneSpec, "resolved", resolved)
    search, study = trials(spec(("n_steps=16..17",), seeds="0", trials=12), tmp_path)
    jobs = [job for job in search.jobs() if job is not None]
    failed = sum(trial.state == STATES.FAIL for trial in study.trials)
    assert failed > 0 and len(jobs) == 12 - failed > 0
    assert "cannot be run: 16 does not go" in capsys.readouterr().out


def test_the_folder_of_a_search_is_its_own(tmp_path: Path) -> None:
    folder = TuneFolder(tmp_path)
    folder.write_spec(spec(), EngineOptions(retries=5))
    read, options = folder.read_spec()
    assert read == spec() and options == EngineOptions(retries=5)
    folder.require_same(spec(trials=500))
    with pytest.raises(RunError, match="holds another search"):
        folder.require_same(spec(("step_size=0.1..2",)))
    assert spec().digest == spec(trials=7).digest != spec(pruner="none").digest
    folder.config.write_text('{"tune": {"base": {}, "search": []}, "engine": {}}')
    with pytest.raises(RunError, match="damaged"):
        folder.read_spec()
    folder.write_spec(spec(), EngineOptions())
    (tmp_path / "study.journal").write_text("not a journal\n")
    with pytest.raises(RunError, match=r"study\.journal is damaged"):
        run_tune(spec(), tmp_path)


@pytest.mark.slow
def test_a_search_killed_in_the_middle_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "search"
    flags = [*FLAGS, "--trials", "4", "--workers", "1", "--pruner", "none", "--tune-dir", str(folder)]
    command = [sys.executable, "-m", "rlopt.cli.main", *flags]
    first = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (folder / "trial0001" / "seed0" / "config.json").is_file():
        assert time.monotonic() < until and first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    before = open_study(TuneFolder(folder).read_spec()[0], folder).trials
    assert main(flags) == 0
    printed = capsys.readouterr().out
    study = open_study(TuneFolder(folder).read_spec()[0], folder)
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE] * 4
    assert [trial.params for trial in before] == [trial.params for trial in study.trials[: len(before)]]
    assert f"{study.best_value:.1f}" in printed and "4 trials: 4 complete" in printed
    assert len(run_folders(folder)) == 4
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["step_size"] == study.best_params["step_size"] and best["env"] == ENV
    assert main(["resume", str(folder)]) == 0
