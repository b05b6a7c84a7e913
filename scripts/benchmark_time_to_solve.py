"""Seconds and steps until a task is solved: our presets and what people use today, in turn.

A contestant has solved the task when the mean of ten deterministic evaluation episodes stays at or above the threshold
in three evaluations in a row; its time is that at the first of them. Building the model and compiling count,
evaluations do not. Contestants train in turn, some seconds each, in processes of their own, so that a machine whose
speed drifts slows all alike. A peer is stopped at ``--give-up`` times our time. Peers are as their users run them:
SAC and CrossQ at their defaults, PPO as tuned in rl-baselines3-zoo where it has the task, none with action repeat,
which our presets for dm_control have. Steps are those of the simulator.

    python scripts/benchmark_time_to_solve.py run --sbx-python ../sbx/bin/python
    python scripts/benchmark_time_to_solve.py run --task HalfCheetah-v5 --seed 10     # one race
    python scripts/benchmark_time_to_solve.py table                                   # prints the table of kept races
    python scripts/benchmark_time_to_solve.py write                                   # puts it into docs/results
    python scripts/benchmark_time_to_solve.py try --task HalfCheetah-v5 --seed 100 --only rlopt --preset my.yaml

A race that is in the table is not run again, with or without SBX: to run one anew, delete its rows. ``try`` keeps no
rows, for tuning. SBX's interpreter needs rlopt's requirements too (and ``PYTHONPATH`` this folder's parent) for
dm_control.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contestants import Contestant
from evidence import Declared
from reproduction import Results, add_filters, script_parser, show, wanted

EPISODES, IN_A_ROW = 10, 3
KEY = ("task", "contestant", "seed")
SEEDS = (10, 11, 12)
PEER_STEPS = 1_000_000
"""Of a peer's run, which its schedules know."""


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
PEERS = {"sb3_ppo": "SB3 PPO", "sb3_sac": "SB3 SAC", "sbx_sac": "SBX SAC", "sbx_crossq": "SBX CrossQ"}
DECLARED = Declared(frozenset(TASKS), frozenset({0, 1}), frozenset(TASKS), frozenset(SEEDS), tasks_too=False)
"""Each preset is for one task; its file says on which seeds it was chosen."""


@dataclass
class Progress:
    """Of one contestant in one race."""

    seconds: float = 0.0
    steps: int = 0
    over: bool = False
    """Whether its run has come to its end."""
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    """Seconds, environment steps and mean evaluation return after each turn."""

    def solved(self, threshold: float) -> tuple[float, int] | None:
        """Seconds and steps at the first of :data:`IN_A_ROW` evaluations at or above the threshold."""
        for first in range(len(self.curve) - IN_A_ROW + 1):
            if all(score >= threshold for *_, score in self.curve[first : first + IN_A_ROW]):
                return self.curve[first][0], self.curve[first][1]
        return None


def build(name: str, env_id: str, preset: str | None, seed: int) -> tuple[Any, int]:
    """A contestant's model, and the steps of its run."""
    if name == "rlopt":
        from rlopt.runs.build import build as build_run
        from rlopt.settings.presets import resolved_settings

        task = TASKS[env_id]
        changed = {"env": env_id, "seed": seed, "compile": "on"}
        run, config = resolved_settings(task.agent, changed, preset or task.preset, "benchmark")
        return build_run(task.agent, run, config)[0], run.total_timesteps
    if name.startswith("sbx"):
        import sbx
        from peers import make_peer_env

        make = {"sbx_sac": sbx.SAC, "sbx_crossq": sbx.CrossQ}[name]
        return make("MlpPolicy", make_peer_env(env_id, seed), seed=seed), PEER_STEPS
    from peers import ZOO_PPO
    from peers import build as build_peer

    if name == "sb3_ppo" and env_id not in ZOO_PPO:
        import stable_baselines3
        from peers import make_peer_env

        return stable_baselines3.PPO("MlpPolicy", make_peer_env(env_id, seed), seed=seed, device="cpu"), PEER_STEPS
    return build_peer(name, env_id, seed), PEER_STEPS


def work(args: argparse.Namespace) -> None:
    """Serves one contestant: a line is the seconds to train for, the answer its turn as JSON."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(args.threads)
    env_id, seed = args.task, args.seed
    began = time.perf_counter()
    model, total = build(args.worker, env_id, args.preset, seed)
    spent = time.perf_counter() - began

    class Turns(BaseCallback):
        """Pauses one run, whose schedules go on as they would without pauses, at the end of each turn."""

        def __init__(self) -> None:
            super().__init__()
            self.spent, self.turn, self.start = spent, 0.0, 0.0

        def _on_training_start(self) -> None:
            self.going_on()

        def _on_step(self) -> bool:
            if time.perf_counter() - self.start < self.turn:
                return True
            self.say(over=False)
            return self.going_on()

        def say(self, over: bool) -> None:
            self.spent += time.perf_counter() - self.start
            steps = model.num_timesteps * action_repeat(model)
            turn = {"seconds": self.spent, "steps": steps, "score": score(model, args.worker, env_id, seed)}
            print(json.dumps({**turn, "over": over}), flush=True)

        def going_on(self) -> bool:
            """Waits for the next turn; whether there is one."""
            line = sys.stdin.readline()
            self.turn, self.start = float(line or 0), time.perf_counter()
            return bool(line)

    turns = Turns()
    print("ready", flush=True)
    model.learn(total, callback=turns)
    if turns.turn:
        turns.say(over=True)


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


def race(args: argparse.Namespace, env_id: str, seed: int, pythons: dict[str, str]) -> dict[str, Progress]:
    """Trains all contestants with one seed until each has solved the task or is given up."""
    threshold = TASKS[env_id].threshold
    flags = ["work", "--task", env_id, "--threads", str(args.threads), "--seed", str(seed)]
    flags += ["--preset", args.preset] if args.preset else []
    runners = {name: Contestant([pythons[name], __file__, *flags, "--worker", name]) for name in pythons}
    found = {name: Progress() for name in pythons}
    while runners:
        ours = found["rlopt"].solved(threshold) if "rlopt" in found else None
        limit = args.limit if ours is None else min(args.limit, args.give_up * ours[0])
        for name, runner in list(runners.items()):
            mine = found[name]
            if mine.solved(threshold) or mine.seconds >= limit or mine.over:
                runners.pop(name).close()
                continue
            turn = json.loads(runner.ask(str(args.turn)))
            mine.seconds, mine.steps = turn["seconds"], turn["steps"]
            mine.curve.append((turn["seconds"], turn["steps"], turn["score"]))
            mine.over = turn["over"]
            print(
                f"{env_id} seed {seed} {name:10} {mine.seconds:7.1f} s {mine.steps:9,} steps {turn['score']:8.1f}",
                flush=True,
            )
    return found


def keep(args: argparse.Namespace, env_id: str, seed: int, found: dict[str, Progress]) -> None:
    """Adds the rows of a race to the table."""
    import stable_baselines3
    import torch

    settings = {name: getattr(args, name) for name in ("threads", "turn", "limit", "give_up")}
    settings |= {"threshold": TASKS[env_id].threshold, "preset": TASKS[env_id].preset}
    settings["versions"] = {"torch": torch.__version__, "stable_baselines3": stable_baselines3.__version__}
    for name, progress in found.items():
        seconds, steps = progress.solved(TASKS[env_id].threshold) or (None, None)
        row = {"task": env_id, "contestant": name, "seed": seed, "seconds": seconds, "steps": steps}
        row |= {"stopped": progress.seconds, "curve": progress.curve}
        args.results.add(row, settings)


def cell(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """The median of a column over races with its range; one that was not solved counts as longer than all."""
    if not rows:
        return "not run"
    values = sorted(row[column] if row[column] is not None else float("inf") for row in rows)
    middle = statistics.median_high(values)
    unsolved = sum(value == float("inf") for value in values)
    missing = "" if len(rows) == len(SEEDS) else f" ({len(rows)} of {len(SEEDS)} seeds)"
    if middle == float("inf"):
        return f"not within {statistics.median(row['stopped'] for row in rows):,.0f} s{missing}"
    shown = [value for value in values if value != float("inf")]
    text = f"{middle:,.0f}" + (f" [{shown[0]:,.0f}, {shown[-1]:,.0f}]" if len(shown) > 1 else "")
    return text + (f" ({unsolved} of {len(rows)} not solved)" if unsolved else missing)


def factor(ours: Sequence[Mapping[str, Any]], peers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The quickest peer's median time over ours; a time without a solution is that of the stop, a lower bound."""
    if not ours or any(row["seconds"] is None for row in ours):
        return ""
    own = statistics.median_high(row["seconds"] for row in ours)
    times = {
        name: statistics.median_high(row["seconds"] or row["stopped"] for row in rows)
        for name, rows in peers.items()
        if rows
    }
    if not times:
        return ""
    name = min(times, key=lambda each: times[each])
    if all(row["seconds"] for row in peers[name]):
        return f"{times[name] / own:.1f} x ({PEERS[name]})"
    return f"at least {times[name] / own:.1f} x"


def table_text(results: Results) -> str:
    rows = DECLARED.reported(results.find())
    lines = [
        "Seconds of training until the mean return of ten deterministic episodes reaches the threshold and stays there "
        "for three evaluations; median over seeds [range]. Contestants train in turn on one core. A peer is stopped at "
        "a multiple of our time. The last column is the time of the quickest peer over ours.",
        "",
        f"| task | return | rlopt | {' | '.join(PEERS.values())} | quickest peer |",
        "|---" * (4 + len(PEERS)) + "|",
    ]
    steps, missing = [], []
    for env_id, task in TASKS.items():
        by_name = {
            name: [row for row in rows if row["task"] == env_id and row["contestant"] == name]
            for name in ("rlopt", *PEERS)
        }
        if not any(by_name.values()):
            missing.append(f"{env_id} ({task.threshold:g})")
            continue
        peers = {name: by_name[name] for name in PEERS}
        cells = " | ".join(cell(by_name[name], "seconds") for name in by_name)
        lines.append(f"| {env_id} | {task.threshold:g} | {cells} | {factor(by_name['rlopt'], peers)} |")
        each = ", ".join(
            f"{PEERS.get(name, 'rlopt')} {cell(found, 'steps')}"
            for name, found in by_name.items()
            if any(row["steps"] for row in found)
        )
        steps.append(f"- Steps of the simulator on {env_id} (preset `{task.agent} {task.preset}`): {each}.")
    steps += [f"- Not run yet: {', '.join(missing)}."] if missing else []
    return "\n".join([*lines, "", *steps, "", "`python scripts/benchmark_time_to_solve.py run --sbx-python PYTHON`"])


def draw(results: Results, out: Path) -> None:
    """Return over seconds of training, a panel for each task that was run, a line for each race."""
    from matplotlib.figure import Figure

    from rlopt.analysis.plotting import line_style, save_figure, styled

    rows = DECLARED.reported(results.find())
    tasks = [env_id for env_id in TASKS if any(row["task"] == env_id for row in rows)]
    if not tasks:
        return
    with styled(None):
        figure = Figure(figsize=(4.4 * len(tasks), 3), dpi=150, layout="constrained")
        for panel, env_id in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
            for index, (name, title) in enumerate({"rlopt": "rlopt", **PEERS}.items()):
                found = [row for row in rows if row["task"] == env_id and row["contestant"] == name]
                for number, row in enumerate(found):
                    seconds, _, scores = zip(*row["curve"], strict=True)
                    panel.plot(seconds, scores, color=line_style(index)[0], label="" if number else title)
            panel.axhline(TASKS[env_id].threshold, color="#888888", linestyle=":")
            panel.set(title=env_id, xlabel="seconds of training", ylabel="return")
            panel.legend(fontsize=8)
            panel.spines[["top", "right"]].set_visible(False)
        save_figure(figure, out)


def main() -> None:
    parser = script_parser(__doc__ or "", "time_to_solve", KEY, "try", "work", runs=False)
    add_filters(parser, task=list(TASKS), seed=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turn", type=int, default=4, help="seconds of training a turn")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which anyone is stopped")
    parser.add_argument("--give-up", type=float, default=10, help="times our time after which a peer is stopped")
    parser.add_argument("--preset", help="try: our preset, instead of the task's")
    parser.add_argument("--sbx-python", help="interpreter of an environment with sbx-rl; left out without")
    parser.add_argument("--only", nargs="+", choices=["rlopt", *PEERS], default=["rlopt", *PEERS])
    parser.add_argument("--worker", choices=["rlopt", *PEERS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action == "work":
        work(args)
        return
    pythons = {name: args.sbx_python if name.startswith("sbx") else sys.executable for name in args.only}
    pythons = {name: python for name, python in pythons.items() if python}
    if args.action == "try":
        race(args, args.task or next(iter(TASKS)), args.seed or 0, pythons)
        return
    if args.preset or len(args.only) <= len(PEERS):
        parser.error("--preset and --only are for try: a race that is kept has all contestants and the task's preset")
    if args.action == "run":
        for seed in SEEDS:
            for env_id in TASKS:
                if not args.results.find(task=env_id, seed=seed) and wanted(args, task=env_id, seed=seed):
                    keep(args, env_id, seed, race(args, env_id, seed, pythons))
    show(args, "results time_to_solve", table_text(args.results))
    if args.action == "write":
        draw(args.results, args.page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
