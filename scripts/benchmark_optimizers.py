"""Optimisers and learning-rate schedules on two small tasks, at two learning rates each.

python scripts/benchmark_optimizers.py            # runs what is missing, then writes docs/results/optimizers.md
python scripts/benchmark_optimizers.py --report   # writes the page from the committed results alone
"""

import argparse
import dataclasses
import time
from typing import Any

import draw_results
import numpy as np
from reproduction import PAGES, Results

RESULTS = Results(PAGES / "optimizers.jsonl", "task", "row", "rate", "seed")
RATES = (1e-3, 1e-2)
SEEDS = (0, 1, 2)
EPISODES = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """An agent's settings on a task."""

    agent: str
    env: str
    steps: int
    n_envs: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.agent}, {self.env}, {self.steps:,} steps"


TASKS = (
    Task("mdpo", "CartPole-v1", 10_240, 8, {"n_steps": 128, "batch_size": 256, "value_batch_size": 256}),
    Task(
        "off_policy_mdpo",
        "InvertedPendulum-v5",
        1_500,
        1,
        {"net_arch": (64, 64), "batch_size": 64, "buffer_size": 1_500, "learning_starts": 100},
    ),
)
ROWS: dict[str, dict[str, Any]] = {
    "Adam": {},
    "Adam, linear": {"learning_rate_schedule": "linear"},
    "Adam, warm-up, cosine": {"learning_rate_schedule": "cosine", "learning_rate_warmup": 0.1},
    "AdamW": {"optimizer": "adamw"},
    "SGD, momentum 0.9": {"optimizer": "sgd", "optimizer_kwargs": ("momentum=0.9",)},
    "AdaBelief": {"optimizer": "adabelief"},
    "AdamP": {"optimizer": "adamp"},
    "diffGrad": {"optimizer": "diffgrad"},
    "AdaHessian": {"optimizer": "adahessian"},
    "SGD-SaI": {"optimizer": "sgdsai"},
    "EXAdam": {"optimizer": "exadam"},
}


def run(task: Task, row: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains once; the mean return of deterministic episodes of the last policy, None if training diverged."""
    import rlopt
    from rlopt.errors import NonFiniteError
    from rlopt.registry import agent_spec, resolve

    spec = agent_spec(task.agent)
    settings = {**task.settings, **ROWS[row], "learning_rate": rate, "compile": "off"}
    arguments = resolve(spec.config)(**settings).algorithm_kwargs()
    env = rlopt.make_env(task.env, n_envs=task.n_envs, seed=seed, backend="gymnasium")
    model = resolve(spec.algorithm)("MlpPolicy", env, seed=seed, device="cpu", **arguments)
    start = time.process_time()
    score: float | None = None
    try:
        model.learn(task.steps)
        seconds = time.process_time() - start
        score = float(rlopt.evaluate(model, task.env, EPISODES, seed=10_000, backend="gymnasium").mean)
    except NonFiniteError:
        seconds = time.process_time() - start
    return {"task": task.name, "row": row, "rate": rate, "seed": seed, "return": score, "cpu_seconds": seconds}


def cell(found: list[dict[str, Any]]) -> str:
    """Mean over seeds, with lowest and highest."""
    if not found:
        return "not run"
    scores = [result["return"] for result in found if result["return"] is not None]
    diverged = f", {len(found) - len(scores)} diverged" if len(scores) < len(found) else ""
    missing = f", {len(found)} of {len(SEEDS)} seeds" if len(found) < len(SEEDS) else ""
    if not scores:
        return f"diverged{missing}"
    return f"{np.mean(scores):.0f} [{min(scores):.0f}, {max(scores):.0f}]{diverged}{missing}"


def page(found: list[dict[str, Any]]) -> str:
    """The whole page of results."""
    lines = [
        "# Optimisers and schedules",
        "",
        "`python scripts/benchmark_optimizers.py` fills these tables. Each optimiser has the same two learning rates, "
        f"otherwise its own defaults, and {len(SEEDS)} seeds; the action repeat is 1, nothing is compiled, and a run "
        f"has one CPU thread. A cell is the mean over seeds of the mean of {EPISODES} deterministic episodes of the "
        "last policy; the brackets give the lowest and the highest seed. CPU s is the CPU time of training, as the "
        "mean over the runs of a row. Small tasks, short runs, three seeds and two rates show what works and what it "
        "costs, not which optimiser is best.",
    ]
    for task in TASKS:
        rates = [f"lr {rate:g}" for rate in RATES]
        lines += [
            "",
            f"## {task.name}",
            "",
            f"<!-- results {task.agent} -->",
            f"| optimiser | {' | '.join(rates)} | CPU s |",
            "|---|---|---|---|",
        ]
        for row in ROWS:
            own = [result for result in found if result["task"] == task.name and result["row"] == row]
            cells = [cell([result for result in own if result["rate"] == rate]) for rate in RATES]
            seconds = f"{np.mean([result['cpu_seconds'] for result in own]):.1f}" if own else ""
            lines.append(f"| {row} | {' | '.join(cells)} | {seconds} |")
        lines.append(f"<!-- /results {task.agent} -->")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--minutes", type=float, default=12.0, help="of CPU time, after which no run is begun")
    options = parser.parse_args()
    if not options.report:
        import torch

        torch.set_num_threads(1)
        for seed in SEEDS:
            for rate in RATES:
                for task in TASKS:
                    for row in ROWS:
                        late = time.process_time() > 60 * options.minutes
                        if late or RESULTS.find(task=task.name, row=row, rate=rate, seed=seed):
                            continue
                        result = run(task, row, rate, seed)
                        print(result, flush=True)
                        RESULTS.add(result)
    text = page(RESULTS.find())
    print(text)
    (PAGES / "optimizers.md").write_text(text)
    draw_results.write(PAGES / "optimizers.md")


if __name__ == "__main__":
    main()
