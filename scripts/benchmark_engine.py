"""A sweep's jobs on a Ray cluster of two nodes against the local engine, both with two workers on this machine.

The wall time of 16 short jobs, from the call of ``map`` to its return, once every worker has run a job of the kind (the
import of torch is start-up). The engines work in turn, round after round; ratios are taken within a round. Two kinds of
job: short training runs, and pauses, which take the same time however busy the machine is and so show what the engines
themselves add to the ideal, half the sum of the pauses.

    python scripts/benchmark_engine.py --rounds 5
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rlopt.engine import Engine, Job, JobContext, make_engine
from rlopt.engine.base import Observer
from rlopt.sweeps.spec import expand, spec_from

WORKERS = 2
_STORE = 100 * 1024**2


def pause(context: JobContext, *, seconds: float) -> float:
    """A job that computes nothing."""
    time.sleep(seconds)
    return seconds


def training_jobs(folder: Path, count: int, steps: int) -> list[Job]:
    """Runs of ``steps`` environment steps, one seed each."""
    settings = {"n_envs": 4, "total_timesteps": steps, "eval_every": 0, "checkpoint_every": 0, "backend": "gymnasium"}
    spec = spec_from(
        {"agent": "mdpo", "env": "Pendulum-v1", "seeds": f"0..{count - 1}", "settings": settings}, "benchmark"
    )
    return [run.job for run in expand(spec, folder)]


def pauses(count: int, seconds: float) -> list[Job]:
    """Jobs that take ``seconds`` each."""
    return [Job(f"pause{index}", "benchmark_engine:pause", {"seconds": seconds}) for index in range(count)]


class _Failures(Observer):
    def retried(self, job: Job, attempt: int, reason: str) -> None:
        raise SystemExit(f"{job.name} failed: {reason}")


def seconds_of(engine: Engine, jobs: list[Job], folder: Path) -> float:
    """Wall time of a ``map`` that keeps results and logs, as a sweep does."""
    began = time.perf_counter()
    mapped = engine.map(jobs, folder=folder, observer=_Failures())
    elapsed = time.perf_counter() - began
    if any(result.status != "done" for result in mapped.results.values()):
        raise SystemExit(f"not every job was done: {[r for r in mapped.results.values() if r.status != 'done']}")
    return elapsed


def compete(engines: dict[str, Engine], args: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Kind of job -> engine -> seconds of each round."""
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in engines} for kind in ("training", "pauses")}
    for number in range(-1, args.rounds):
        order = list(engines) if number % 2 else list(engines)[::-1]
        for kind in times:
            for name in order:
                place = folder / f"{kind}-{name}-{number}"
                count = args.jobs if number >= 0 else 2 * WORKERS
                jobs = training_jobs(place, count, args.steps) if kind == "training" else pauses(count, args.seconds)
                elapsed = seconds_of(engines[name], jobs, place)
                shutil.rmtree(place)
                if number >= 0:  # the first one imports torch
                    times[kind][name].append(elapsed)
                    print(f"round {number + 1}: {kind} on {name}: {elapsed:.2f} s", flush=True)
    return times


def report(times: dict[str, dict[str, list[float]]], args: argparse.Namespace) -> None:
    """Prints the medians, and the median and range of the ratios."""
    print(f"\n{args.jobs} jobs on {WORKERS} workers, medians of {args.rounds} rounds")
    print("| jobs | local | Ray, two nodes | overhead of Ray |\n|---|---|---|---|")
    for kind, engines in times.items():
        ratios = [100 * (ray / local - 1) for local, ray in zip(engines["local"], engines["ray"], strict=True)]
        local, ray = (statistics.median(engines[name]) for name in ("local", "ray"))
        spread = f"{min(ratios):+.1f} to {max(ratios):+.1f}"
        what = f"training, {args.steps:,} steps" if kind == "training" else f"pauses of {args.seconds:g} s"
        print(f"| {what} | {local:.2f} s | {ray:.2f} s | {statistics.median(ratios):+.1f} % ({spread}) |")
    ideal = args.jobs * args.seconds / WORKERS
    for name, seconds in times["pauses"].items():
        print(
            f"{name}: {100 * (statistics.median(seconds) / ideal - 1):.1f} % above the ideal {ideal:g} s of the pauses"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16_384, help="of a training run (default 16,384)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a pause (default 1)")
    args = parser.parse_args()

    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": _STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            make_engine("local", workers=WORKERS) as local,
            make_engine("ray", address=cluster.address, workers=WORKERS) as ray,
        ):
            report(compete({"local": local, "ray": ray}, args, Path(folder)), args)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
