"""Seconds and steps until a task is solved: our presets and what people use today, in turn.

A contestant has solved the task when the mean of ten deterministic evaluation episodes stays at or above the threshold
in three evaluations in a row; its time is that at the first of them. Building the model and compiling count,
evaluations do not. Contestants train in turn, some seconds each, in processes of their own, so that a machine whose
speed drifts slows all alike. A peer is stopped at ``--give-up`` times our time. Peers are as their users run them:
SAC and CrossQ at their defaults, PPO as tuned in rl-baselines3-zoo where it has the task, none with action repeat,
which our presets for dm_control have. Steps are those of the simulator.

    python scripts/benchmark_time_to_solve.py HalfCheetah-v5 --seeds 0 1 2
    python scripts/benchmark_time_to_solve.py dm_control/walker-walk --sbx-python ../sbx/bin/python
    python scripts/benchmark_time_to_solve.py HalfCheetah-v5 --only rlopt --preset my.yaml    # while tuning

SBX's interpreter needs rlopt's requirements too (and ``PYTHONPATH`` this folder's parent) for dm_control.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contestants import Contestant, answer

EPISODES, IN_A_ROW = 10, 3


@dataclass(frozen=True)
class Task:
    agent: str
    preset: str
    threshold: float


TASKS = {
    "HalfCheetah-v5": Task("mdpo", "mujoco/half_cheetah", 4000),
    "Hopper-v5": Task("mdpo", "mujoco/hopper", 2500),
    "dm_control/cartpole-swingup": Task("sac", "dmc/cartpole-swingup", 800),
    "dm_control/walker-walk": Task("sac", "dmc/walker-walk", 900),
    "dm_control/cheetah-run": Task("sac", "dmc/cheetah-run", 600),
}
PEERS = {
    "sb3_ppo": "Stable-Baselines3's PPO",
    "sb3_sac": "Stable-Baselines3's SAC",
    "sbx_sac": "SBX's SAC",
    "sbx_crossq": "SBX's CrossQ",
}


@dataclass
class Progress:
    """Of one contestant in one race."""

    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    """Seconds, environment steps and mean evaluation return after each turn."""

    def solved(self, threshold: float) -> tuple[float, int] | None:
        """Seconds and steps at the first of :data:`IN_A_ROW` evaluations at or above the threshold."""
        for first in range(len(self.curve) - IN_A_ROW + 1):
            if all(score >= threshold for *_, score in self.curve[first : first + IN_A_ROW]):
                return self.curve[first][0], self.curve[first][1]
        return None


def build(name: str, env_id: str, preset: str | None, seed: int) -> Any:
    """A contestant's model."""
    if name == "rlopt":
        from benchmark_on_policy import from_preset

        task = TASKS[env_id]
        # Trained in turns, it could not see that the whole run is long enough to compile.
        return from_preset(task.agent, preset or task.preset, env=env_id, seed=seed, compile="on")
    if name.startswith("sbx"):
        import sbx
        from peers import make_peer_env

        make = {"sbx_sac": sbx.SAC, "sbx_crossq": sbx.CrossQ}[name]
        return make("MlpPolicy", make_peer_env(env_id, seed), seed=seed)
    from peers import ZOO_PPO
    from peers import build as build_peer

    if name == "sb3_ppo" and env_id not in ZOO_PPO:
        import stable_baselines3
        from peers import make_peer_env

        return stable_baselines3.PPO("MlpPolicy", make_peer_env(env_id, seed), seed=seed, device="cpu")
    return build_peer(name, env_id, seed)


def work(args: argparse.Namespace) -> None:
    """Serves one contestant: a line is the seconds to train for, the answer its turn as JSON."""
    import torch

    torch.set_num_threads(args.threads)
    env_id, seed = args.env, args.seeds[0]
    began = time.perf_counter()
    model = build(args.worker, env_id, args.preset, seed)
    spent = time.perf_counter() - began
    steps, rate = 0, 0.0

    def turn(seconds: str) -> str:
        nonlocal spent, steps, rate
        wanted, start, before = float(seconds), time.perf_counter(), model.num_timesteps
        while (elapsed := time.perf_counter() - start) < wanted:
            # Few calls of learn: each begins with a reset of what it monitors.
            ahead = max(int(rate * (wanted - elapsed)), getattr(model, "n_steps", 100) * model.n_envs)
            model.learn(ahead, reset_num_timesteps=False)
            rate = (model.num_timesteps - before) / (time.perf_counter() - start)
        spent += time.perf_counter() - start
        steps = model.num_timesteps * action_repeat(model)
        return json.dumps({"seconds": spent, "steps": steps, "score": score(model, args.worker, env_id, seed)})

    answer(turn)


def action_repeat(model: Any) -> int:
    from rlopt.evaluation.envs import base_env

    return int(getattr(getattr(base_env(model.get_env()), "settings", None), "action_repeat", 1))


def score(model: Any, name: str, env_id: str, seed: int) -> float:
    """Mean return of deterministic episodes on a fresh environment."""
    if name == "rlopt":
        import rlopt

        result = rlopt.evaluate(model, env_id, EPISODES, seed=seed + 100_000, action_repeat=action_repeat(model))
        return float(result.mean)
    from peers import evaluate as evaluate_peer

    returns = evaluate_peer(model, env_id, seed, EPISODES)
    return sum(returns) / len(returns)


def race(args: argparse.Namespace, seed: int, pythons: dict[str, str]) -> dict[str, Progress]:
    """Trains all contestants with one seed until each has solved the task or is given up."""
    threshold = args.threshold or TASKS[args.env].threshold
    flags = [args.env, "--threads", str(args.threads), "--seeds", str(seed)]
    flags += ["--preset", args.preset] if args.preset else []
    runners = {name: Contestant([pythons[name], __file__, *flags, "--worker", name]) for name in pythons}
    found = {name: Progress() for name in pythons}
    while runners:
        ours = found["rlopt"].solved(threshold) if "rlopt" in found else None
        limit = args.limit if ours is None else min(args.limit, args.give_up * ours[0])
        for name, runner in list(runners.items()):
            mine = found[name]
            if mine.solved(threshold) or mine.seconds >= limit:
                runners.pop(name).close()
                continue
            turn = json.loads(runner.ask(str(args.turn)))
            mine.seconds, mine.steps = turn["seconds"], turn["steps"]
            mine.curve.append((turn["seconds"], turn["steps"], turn["score"]))
            print(f"seed {seed} {name:10} {mine.seconds:7.1f} s {mine.steps:9,} steps {turn['score']:8.1f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turn", type=int, default=4, help="seconds of training a turn")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which anyone is stopped")
    parser.add_argument("--give-up", type=float, default=10, help="times our time after which a peer is stopped")
    parser.add_argument("--threshold", type=float, help="return that counts as solved, instead of the task's")
    parser.add_argument("--preset", help="our preset, instead of the task's")
    parser.add_argument("--sbx-python", help="interpreter of an environment with sbx-rl; left out without")
    parser.add_argument("--only", nargs="+", choices=["rlopt", *PEERS], default=["rlopt", *PEERS])
    parser.add_argument("--out", type=Path, help="also append each seed's curves to this file of JSON lines")
    parser.add_argument("--worker", choices=["rlopt", *PEERS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    pythons = {name: args.sbx_python if name.startswith("sbx") else sys.executable for name in args.only}
    pythons = {name: python for name, python in pythons.items() if python}
    threshold = args.threshold or TASKS[args.env].threshold
    times: dict[str, list[tuple[float, int] | None]] = {name: [] for name in pythons}
    last: dict[str, list[float]] = {name: [] for name in pythons}
    for seed in args.seeds:
        for name, progress in race(args, seed, pythons).items():
            times[name].append(progress.solved(threshold))
            last[name].append(progress.seconds)
            if args.out:
                row = {"env": args.env, "contestant": name, "seed": seed, "threshold": threshold}
                with args.out.open("a") as file:
                    file.write(json.dumps({**row, "curve": progress.curve}) + "\n")
    print(f"\n{args.env}: {threshold:g}, seconds (steps) by seed; a peer's factor is its median over ours")
    for name in pythons:
        shown = [
            f"{solved[0]:.1f} ({solved[1]:,})" if solved else f"not within {seconds:.0f}"
            for solved, seconds in zip(times[name], last[name], strict=True)
        ]
        # Not solved counts as the time at which it was stopped: the factor is then a lower bound.
        median = statistics.median(s[0] if s else end for s, end in zip(times[name], last[name], strict=True))
        if name == "rlopt":
            own = median
        factor = f"{median / own:.1f}x" if "rlopt" in pythons else ""
        print(f"{name:12}{median:9.1f} {'>=' if None in times[name] else '  '}{factor:>7}   {', '.join(shown)}")


if __name__ == "__main__":
    main()
