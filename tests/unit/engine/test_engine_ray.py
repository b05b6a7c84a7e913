"""Ray against the same promises: two nodes on this machine, one of which is removed while its jobs run."""

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

from rlopt.cli.main import main
from rlopt.engine import make_engine
from rlopt.engine.base import Engine
from rlopt.errors import ConfigError
from rlopt.run_folder import run_folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's clusters are supported on Linux only"),
]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[Engine]:
    with make_engine("ray", address=cluster.address) as ray:
        ray.retry_seconds = 0.1
        yield ray


def test_jobs_that_work_fail_die_and_are_pruned(engine: Engine, tmp_path: Path) -> None:
    class Pruner(Recorder):
        def evaluated(self, name: str, step: int, value: float) -> list[str]:
            return ["slow"] if step >= 2 else []

    jobs = [
        job("works", "square", x=3),
        job("fails", "fail", folder=str(tmp_path), times=1),
        job("dies", "kill_self", folder=str(tmp_path), times=1),
        job("wrong", "misuse", folder=str(tmp_path)),
        job("slow", "count", folder=str(tmp_path), to=500, seconds=0.05),
    ]
    observer = Pruner()
    results = engine.map(jobs, folder=tmp_path, observer=observer).results
    assert results["works"].value == 9 and results["fails"].value == 1 and results["dies"].value == "survived"
    assert results["wrong"].status == "failed" and len(results["wrong"].failures) == 1
    assert results["slow"].status == "pruned" and 2 <= results["slow"].value < 500
    assert traced(tmp_path, "slow")[-1] == "stopped"
    assert sorted(end.name for end in observer.ends) == sorted(results)
    assert "RuntimeError: the disk is on fire" in observer.reasons and len(observer.reasons) == 2
    assert "Traceback" in (tmp_path / "logs" / "fails.txt").read_text()
    assert engine.map(jobs[:1], folder=tmp_path).results["works"] == results["works"]


def test_no_job_is_lost_or_done_twice_when_a_node_is_removed(cluster: Any, engine: Engine, tmp_path: Path) -> None:
    """Six jobs on two nodes of one CPU; the second node goes when it is in the middle of one of them."""
    node = cluster.add_node(**NODE)
    until = time.monotonic() + 30
    while engine.places() != 2:  # type: ignore[attr-defined]
        assert time.monotonic() < until
        time.sleep(0.1)

    class Remover(Recorder):
        removed = False
        begun: set[str]

        def progress(self, name: str, step: int, total: int, value: float | None) -> None:
            self.begun = {*getattr(self, "begun", set()), name}
            if len(self.begun) == 2 and not self.removed:
                self.removed = True
                cluster.remove_node(node, allow_graceful=False)

    observer = Remover()
    jobs = [job(f"job{i}", "count", folder=str(tmp_path / "work"), to=25, seconds=0.1) for i in range(6)]
    result = engine.map(jobs, folder=tmp_path, observer=observer, retries=3)
    assert observer.removed and observer.reasons, "no job was on the node that was removed"
    assert result.values() == [25] * 6
    assert sorted(end.name for end in observer.ends) == [job.name for job in jobs]
    for each in jobs:
        stored = json.loads((tmp_path / "results" / f"{each.name}.json").read_text())
        assert stored["status"] == "done" and traced(tmp_path / "work", each.name).count("ended") == 1
        assert len(list((tmp_path / "work" / each.name).iterdir())) == 25


def test_the_same_command_ends_all_jobs_after_it_was_stopped_and_killed(cluster: Any, tmp_path: Path) -> None:
    helpers = str(Path(engine_jobs.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, engine_jobs.__file__, str(tmp_path), "2", "40", cluster.address]
    for attempt, number in enumerate([signal.SIGINT, signal.SIGKILL], start=1):
        process = subprocess.Popen(command, env=environment)
        until = time.monotonic() + 60
        while len(traced(tmp_path / "work", "job0")) < 2 * attempt - 1 or not list(tmp_path.glob("work/job0/*")):
            assert time.monotonic() < until, "no job has begun"
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == (128 + number if number == signal.SIGINT else -number)
        assert not list(tmp_path.glob("results/*"))
        if number == signal.SIGINT:
            assert traced(tmp_path / "work", "job0") == ["began", "stopped"]
    assert subprocess.run(command, env=environment, timeout=120).returncode == 0
    for name in ("job0", "job1"):
        assert json.loads((tmp_path / "results" / f"{name}.json").read_text())["value"] == 40
        assert traced(tmp_path / "work", name).count("ended") == 1


def test_a_sweep_and_an_evaluation_on_the_cluster(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a relative folder, as the processes of the cluster work elsewhere."""
    monkeypatch.chdir(tmp_path)
    flags = "--agent mdpo --env rlopt/RandomTarget-v0 --n-envs 2 --n-steps 16 --net-arch 8 --value-batch-size 16"
    flags += " --total-timesteps 64 --eval-episodes 2 --seeds 0,1 --sweep-dir sweep --engine ray --address"
    assert main(["sweep", *flags.split(), cluster.address]) == 0
    assert "2 of 2 runs have ended" in capsys.readouterr().out
    runs = run_folders(Path("sweep"))
    assert [run.name for run in runs] == ["seed0", "seed1"]
    returns = []
    for where in (["ray", "--address", cluster.address], ["local", "--workers", "1"]):
        assert main(["evaluate", str(runs[0]), "--episodes", "9", "--stochastic", "--engine", *where]) == 0
        returns.append(json.loads((runs[0] / "evaluation.json").read_text())["returns"])
    assert returns[0] == returns[1] and len(set(returns[0])) > 1


def test_more_than_the_cluster_has_is_refused(engine: Engine, cluster: Any) -> None:
    with pytest.raises(ConfigError, match=r"a job takes 64 CPUs and 0 GPUs, the cluster has 1 and 0"):
        make_engine("ray", address=cluster.address, threads=64)
    with pytest.raises(ConfigError, match=r"1 CPUs and 0.5 GPUs, the cluster has 1 and 0"):
        make_engine("ray", address=cluster.address, gpus_per_job=0.5)


@pytest.mark.parametrize(("share", "count", "runs_a_card"), [(0.5, 4, 2), (1, 2, 1)])
def test_jobs_share_the_gpus_of_a_node(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, count: int, runs_a_card: int
) -> None:
    """A node says that it has two GPUs; jobs that are there together see one each, so many the same one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    node = cluster.add_node(**{**NODE, "num_cpus": 4, "num_gpus": 2})
    try:
        with make_engine("ray", address=cluster.address, gpus_per_job=share) as engine:
            assert engine.places() == count  # type: ignore[attr-defined]
            arguments = {"folder": str(tmp_path), "others": count, "variable": "CUDA_VISIBLE_DEVICES"}
            seen = engine.map([job(f"job{i}", "meet", **arguments) for i in range(count)]).values()
            assert sorted(seen) == sorted(["0", "1"] * runs_a_card)
    finally:
        cluster.remove_node(node)
