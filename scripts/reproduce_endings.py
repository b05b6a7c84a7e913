"""Imitation where episodes truly end: by falling, or because the task is done.

    python scripts/reproduce_endings.py run      # task by task and seed by seed, the quickest tasks first
    python scripts/reproduce_endings.py run --task CartPole-v1
    python scripts/reproduce_endings.py table    # prints the table from the kept runs
    python scripts/reproduce_endings.py write    # puts it into docs/results/endings.md

Every run learns from ten demonstrations with the defaults of its agent, once with the absorbing state (the default) and
once with every end worth 0. In CartPole, InvertedPendulum and Hopper an end is a fall; in MountainCarContinuous it is
the goal, so that ending early is good. The experts are controllers of a line, and for Hopper an agent that the script
trains first. The last policy, acting deterministically, is evaluated for 20 episodes. A cell whose row is in the table
is not run again, and a run that was stopped is continued.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduction import Results, add_filters, cell_text, script_parser, show, train, wanted

EPISODES, N_DEMOS = 20, 10
KEY = ("task", "agent", "ends", "seed")
SEEDS = (20, 21, 22)
ENDS = {"absorbing": (), "worth 0": ("--no-absorbing",)}


class Controller:
    """Acts by a function of observations (N, O), as a model does."""

    def __init__(self, act: Callable[[np.ndarray], np.ndarray]) -> None:
        self.act = act

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        return self.act(np.asarray(observation)), state


@dataclass(frozen=True)
class Task:
    env: str
    end: str
    steps: dict[str, int]
    """Environment steps of each agent."""
    expert: Controller | None = None
    """None for an agent that is trained first."""


TASKS = (
    Task(
        "CartPole-v1",
        "a fall",
        {"gail": 20_480},
        Controller(lambda seen: (seen @ np.array([0.1, 0.4, 3.0, 1.0]) > 0).astype(np.int64)),
    ),
    Task(
        "InvertedPendulum-v5",
        "a fall",
        {"gail": 40_960, "dac": 20_000, "ailboost": 20_000},
        Controller(lambda seen: np.clip(seen @ np.array([[0.2], [5.0], [0.4], [1.0]]), -3, 3).astype(np.float32)),
    ),
    Task(
        "MountainCarContinuous-v0",
        "the goal",
        {"gail": 40_960, "dac": 20_000, "ailboost": 20_000},
        Controller(lambda seen: np.where(seen[:, 1:] >= 0, 1.0, -1.0).astype(np.float32)),
    ),
    Task("Hopper-v5", "a fall", {"gail": 204_800, "dac": 100_000, "ailboost": 100_000}),
)
AGENTS = {"gail": ("--n-envs", "8", "--n-steps", "256"), "dac": (), "ailboost": ()}
EXPERT = ("--env", "Hopper-v5", "--total-timesteps", "300000", "--seed", "100", "--checkpoint-every", "20000")


def demonstrations(task: Task, runs: Path) -> Path:
    """The folder of the expert's episodes, recorded if it is not there."""
    import rlopt
    from rlopt.collect import record_demonstrations

    folder = runs / f"demos-{task.env}"
    if not folder.exists():
        expert: Any = task.expert
        if expert is None:
            run = runs / f"expert-{task.env}"
            train("sac", run, *EXPERT)
            expert = rlopt.load(run, device="cpu")
        record_demonstrations(expert, task.env, N_DEMOS, seed=1).save(folder)
    return folder


def run_cell(task: Task, agent: str, ends: str, seed: int, results: Results, runs: Path) -> None:
    import rlopt
    from rlopt.data import load_demonstrations

    if results.find(task=task.env, agent=agent, ends=ends, seed=seed):
        return
    demos = demonstrations(task, runs)
    run = runs / f"{agent}-{task.env}-{ends.replace(' ', '_')}-seed{seed}"
    steps = ("--total-timesteps", str(task.steps[agent]), "--seed", str(seed))
    kept = ("--eval-every", "0", "--checkpoint-every", "20000")
    train(agent, run, "--demos", str(demos), *AGENTS[agent], *ENDS[ends], *steps, *kept)
    evaluation = rlopt.evaluate(rlopt.load(run, device="cpu"), task.env, EPISODES, seed=seed + 100_000)
    row = {
        "task": task.env,
        "agent": agent,
        "ends": ends,
        "seed": seed,
        "expert_return": load_demonstrations(str(demos)).metadata.expert_return,
        "returns": evaluation.returns.tolist(),
        "mean_return": evaluation.mean,
    }
    results.add_run(row, run)


def table_text(results: Results) -> str:
    lines = [
        f"{N_DEMOS} demonstrations, defaults of each agent, {len(SEEDS)} seeds: IQM over seeds of the mean return of "
        f"{EPISODES} deterministic episodes of the last policy [95% bootstrap interval].",
        "",
        "| task | an end is | agent | steps | absorbing state | every end worth 0 | expert |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for agent, steps in task.steps.items():
            found = {ends: results.find(task=task.env, agent=agent, ends=ends) for ends in ENDS}
            texts = [cell_text([row["mean_return"] for row in rows], len(SEEDS)) for rows in found.values()]
            experts = {f"{row['expert_return']:.0f}" for rows in found.values() for row in rows}
            expert = ", ".join(sorted(experts)) or "not run"
            lines.append(f"| {task.env} | {task.end} | {agent} | {steps:,} | {' | '.join(texts)} | {expert} |")
    return "\n".join([*lines, "", "`python scripts/reproduce_endings.py run`"])


def main() -> None:
    parser = script_parser(__doc__, "endings", KEY)
    add_filters(parser, task=str, agent=str, ends=list(ENDS), seed=int)
    args = parser.parse_args()
    if args.action == "run":
        for task in TASKS:
            for seed in SEEDS:
                for agent in task.steps:
                    for ends in ENDS:
                        if wanted(args, task=task.env, agent=agent, ends=ends, seed=seed):
                            run_cell(task, agent, ends, seed, args.results, args.runs)
    show(args, "results endings", table_text(args.results))


if __name__ == "__main__":
    main()
