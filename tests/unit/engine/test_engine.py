"""Engines: every job ends once, whatever happens to its process; results last; a stopped call goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_jobs
import pytest
from engine_jobs import Recorder, job, traced

from rlopt.engine import Engine, Job, make_engine
from rlopt.engine.local import LocalEngine, device_slots, usable_cores
from rlopt.errors import ConfigError, RunError, UnknownNameError

HELPERS = str(Path(engine_jobs.__file__).parent)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(workers=2) as local:
        local.retry_seconds = 0.01
        yield local


def test_results_come_in_the_order_of_the_jobs(engine: Engine) -> None:
    result = engine.map(job(f"n{x}", "square", x=x) for x in range(9))
    assert result.values() == [x * x for x in range(9)] and list(result.results) == [f"n{x}" for x in range(9)]
    assert result.exit_code == 0


def test_no_jobs_are_no_work(engine: Engine) -> None:
    assert engine.map([]).results == {}


def test_results_and_prints_are_kept_and_not_computed_again(engine: Engine, tmp_path: Path) -> None:
    jobs = [job(f"group/n{x}", "square", x=x) for x in range(3)]
    first = engine.map(jobs, folder=tmp_path)
    content = json.loads((tmp_path / "results" / "group" / "n2.json").read_text())
    assert (content["name"], content["status"], content["value"]) == ("group/n2", "done", 4)
    assert (tmp_path / "logs" / "group" / "n2.txt").read_text() == "the square of 2\n"
    recorder = Recorder()
    again = engine.map(jobs, folder=tmp_path, observer=recorder)
    assert again.results == first.results and recorder.ends == []
    assert recorder.known_names == [job.name for job in jobs]


def test_a_process_serves_many_jobs_and_workers_are_limited(engine: Engine) -> None:
    pids = engine.map(job(f"p{i}", "process") for i in range(8)).values()
    assert 1 <= len(set(pids)) <= 2 and os.getpid() not in pids


def test_threads_of_a_worker_are_limited() -> None:
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    with make_engine("local", workers=1, threads=3) as engine:
        assert engine.map([job("one", "environment", names=names)]).values() == [["3"] * 3]
    assert make_engine("local").capacity() == usable_cores()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_fails_its_own_job_only(engine: Engine, tmp_path: Path, number: int) -> None:
    jobs = [job("dies", "kill_self", folder=str(tmp_path), times=99, number=int(number))]
    jobs += [job(f"n{x}", "square", x=x) for x in range(4)]
    recorder = Recorder()
    result = engine.map(jobs, retries=2, folder=tmp_path, observer=recorder)
    dead = result.results["dies"]
    assert dead.status == "failed" and len(dead.failures) == 3 and signal.Signals(number).name in dead.reason
    assert traced(tmp_path, "dies") == ["began"] * 3
    assert result.values()[1:] == [0, 1, 4, 9]
    assert sorted(end.name for end in recorder.ends) == ["dies", "n0", "n1", "n2", "n3"]


def test_a_job_survives_as_many_deaths_as_it_has_retries(engine: Engine, tmp_path: Path) -> None:
    result = engine.map([job("dies", "kill_self", folder=str(tmp_path), times=2)], retries=2)
    assert result.values() == ["survived"] and len(result.results["dies"].failures) == 2


def test_an_exit_is_a_failure(engine: Engine) -> None:
    result = engine.map([job("leaves", "leave")], retries=0).results["leaves"]
    assert result.status == "failed" and "exit code 3" in result.reason


def test_a_death_is_noticed_while_a_child_holds_the_pipe(engine: Engine, tmp_path: Path) -> None:
    jobs = [job("forks", "fork_and_die", path=str(tmp_path / "child"))]
    result = engine.map(jobs, retries=0).results["forks"]
    assert result.status == "failed" and "SIGKILL" in result.reason
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # it still lived


def test_a_job_cannot_read_what_is_meant_for_its_worker(engine: Engine) -> None:
    assert engine.map([job("asks", "ask"), job("n", "square", x=2)]).values() == ["", 4]


def test_an_exception_is_tried_again_with_its_reason_kept(engine: Engine, tmp_path: Path) -> None:
    recorder = Recorder()
    jobs = [job("fails", "fail", folder=str(tmp_path), times=1)]
    result = engine.map(jobs, folder=tmp_path, observer=recorder)
    assert result.values() == [1] and recorder.reasons == ["RuntimeError: the disk is on fire"]
    assert "Traceback" in (tmp_path / "logs" / "fails.txt").read_text()


def test_what_settings_are_wrong_about_is_not_tried_again(engine: Engine, tmp_path: Path) -> None:
    result = engine.map([job("wrong", "misuse", folder=str(tmp_path))], retries=5).results["wrong"]
    assert result.status == "failed" and result.reason == "learning_rate = -1 is outside (0, inf)"
    assert traced(tmp_path, "wrong") == ["began"]


def test_jobs_that_failed_before_are_run_again_unless_told_not_to(engine: Engine, tmp_path: Path) -> None:
    jobs = [job("fails", "fail", folder=str(tmp_path), times=2)]
    assert engine.map(jobs, folder=tmp_path, retries=0).results["fails"].status == "failed"
    assert engine.map(jobs, folder=tmp_path, retries=0, retry_failed=False).results["fails"].status == "failed"
    assert traced(tmp_path, "fails") == ["began"]
    assert engine.map(jobs, folder=tmp_path, retries=1).results["fails"].status == "done"


def test_a_result_that_is_no_json_fails(engine: Engine) -> None:
    result = engine.map([job("set", "unwritable")], retries=0).results["set"]
    assert result.status == "failed" and "JSON" in result.reason


def test_a_function_that_does_not_exist_fails_at_once(engine: Engine) -> None:
    result = engine.map([job("none", "no_such_function")], retries=3).results["none"]
    assert result.status == "failed" and len(result.failures) == 1 and "no_such_function" in result.reason


def test_a_generator_sees_results_before_it_gives_the_next_job(engine: Engine) -> None:
    recorder = Recorder()

    def jobs() -> Iterator[Job | None]:
        x = 2
        for i in range(4):
            while len(recorder.ends) < i:
                yield None
            x = recorder.ends[-1].value if recorder.ends else x
            yield job(f"n{i}", "square", x=x)

    assert engine.map(jobs(), observer=recorder).values() == [4, 16, 256, 65536]


def test_pruning_stops_a_job_and_keeps_what_it_reported(engine: Engine, tmp_path: Path) -> None:
    class Pruner(Recorder):
        def evaluated(self, name: str, step: int, value: float) -> list[str]:
            return ["slow"] if name == "slow" and step >= 2 else []

    jobs = [job("slow", "count", folder=str(tmp_path), to=500, seconds=0.05)]
    jobs += [job("fast", "count", folder=str(tmp_path), to=3, seconds=0.0)]
    result = engine.map(jobs, folder=tmp_path, observer=Pruner()).results
    assert result["slow"].status == "pruned" and 2 <= result["slow"].value < 500
    assert result["fast"].value == 3 and traced(tmp_path, "slow")[-1] == "stopped"
    assert engine.map(jobs, folder=tmp_path).results == result


def test_a_worker_killed_from_outside_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killer(Recorder):
        def progress(self, name: str, step: int, total: int, value: float | None) -> None:
            if name == "victim" and not self.reasons:
                os.kill(local.pids()[name], signal.SIGKILL)
                self.reasons.append("")

    killer = Killer()
    with LocalEngine(workers=2) as local:
        local.retry_seconds = 0.01
        jobs = [job(name, "count", folder=str(tmp_path), to=30, seconds=0.03) for name in ("victim", "other")]
        result = local.map(jobs, observer=killer)
    assert result.values() == [30, 30]
    assert traced(tmp_path, "victim") == ["began", "began", "ended"] and traced(tmp_path, "other") == ["began", "ended"]


def command(folder: Path, jobs: int, to: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([HELPERS, os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, engine_jobs.__file__, str(folder), str(jobs), str(to)]
    return subprocess.Popen(line, env=environment, start_new_session=True)


def wait_until_counting(folder: Path, jobs: int) -> None:
    until = time.monotonic() + 60
    while sum(1 for _ in folder.glob("work/job*/*")) < jobs:
        assert time.monotonic() < until, "no job has begun"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_ends_all_jobs_after_its_process_ended(tmp_path: Path, number: signal.Signals) -> None:
    first = command(tmp_path, jobs=3, to=12)
    wait_until_counting(tmp_path, 4)
    if number == signal.SIGINT:  # as a terminal does: to the command and to its workers
        os.killpg(first.pid, number)
    else:
        first.send_signal(number)
    code = first.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:  # it has waited for its jobs, which have stopped in order
        assert traced(tmp_path / "work", "job0") == ["began", "stopped"]
        assert not list(tmp_path.glob("results/*.json"))
    else:
        until = time.monotonic() + 60
        while traced(tmp_path / "work", "job0") != ["began", "stopped"] and time.monotonic() < until:
            time.sleep(0.05)  # the worker hears that the command is gone, and stops its job in order
    assert command(tmp_path, jobs=3, to=12).wait(120) == 0
    for index in range(3):
        name = f"job{index}"
        assert json.loads((tmp_path / "results" / f"{name}.json").read_text())["value"] == 12
        assert len(list((tmp_path / "work" / name).iterdir())) == 12
        assert traced(tmp_path / "work", name).count("ended") == 1


def test_a_damaged_result_is_named(engine: Engine, tmp_path: Path) -> None:
    jobs = [job("n1", "square", x=1)]
    engine.map(jobs, folder=tmp_path)
    for text in ("{", "[]", '{"name": "n1", "status": "odd"}', '{"name": "n2", "status": "done"}'):
        (tmp_path / "results" / "n1.json").write_text(text)
        with pytest.raises(RunError, match=r"n1\.json.*remove it to run the job again"):
            engine.map(jobs, folder=tmp_path)


def test_two_jobs_of_one_name_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="two jobs have the name 'same'"):
        engine.map([job("same", "square", x=1), job("same", "square", x=2)])


@pytest.mark.parametrize("name", ["", "../up", "a//b", "/etc/passwd", "a/../b", "a b", ".hidden", "é"])
def test_names_that_would_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a job's name"):
        Job(name, "engine_jobs:square")


def test_arguments_and_functions_are_checked() -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        Job("one", "engine_jobs:square", {"x": object()})
    with pytest.raises(ConfigError, match="names no function"):
        Job("one", "os.system('ls')")
    with pytest.raises(ConfigError, match="at least 0"):
        make_engine("local").map([], retries=-1)


def test_engines_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'local'"):
        make_engine("locale")
    with pytest.raises(ConfigError, match="add --engine ray"):
        make_engine("local", address="auto")
    with pytest.raises(ConfigError, match="at least 1"):
        make_engine("local", workers=0)


@pytest.mark.parametrize(
    ("gpus", "share", "slots"),
    [
        ("01", 1, ["0", "1"]),
        ("01", 0.5, ["0", "1", "0", "1"]),
        ("0", 0.33, ["0", "0", "0"]),
        ("0", 0.3, ["0", "0", "0"]),
        ("0123", 2, ["0,1", "2,3"]),
        ("012", 2, ["0,1"]),
    ],
)
def test_shares_of_gpus(gpus: str, share: float, slots: list[str]) -> None:
    assert device_slots(list(gpus), share) == slots


def test_gpus_are_given_to_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with make_engine("local", workers=8, gpus_per_job=1) as engine:
        assert engine.capacity() == 2
        jobs = [job(name, "meet", folder=str(tmp_path), others=2, variable="CUDA_VISIBLE_DEVICES") for name in "ab"]
        assert sorted(engine.map(jobs).values()) == ["4", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="this machine shows 0"):
        make_engine("local", gpus_per_job=0.5)
    for share in (-1, 1.5):
        with pytest.raises(ConfigError, match="gpus_per_job"):
            make_engine("local", gpus_per_job=share)


def test_signals_do_not_keep_it_from_looking_after_its_processes() -> None:
    signals = 0

    def count(*_: Any) -> None:
        nonlocal signals
        signals += 1
        if signals > 20_000:
            raise TimeoutError("it waits on and on")

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        with LocalEngine(workers=1) as local:
            assert [local.messages(0.001) for _ in range(300)] == [[]] * 300
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert signals > 300
