"""SAC on DeepMind Control from states: return after 100,000 environment steps, beside published figures.

    python scripts/reproduce_sac.py run      # seed by seed, so that a run that is stopped early leaves whole rows
    python scripts/reproduce_sac.py table    # prints the table from the kept runs
    python scripts/reproduce_sac.py write    # puts it into docs/results/sac.md

Every cell is one training run through the command line with the preset ``dmc/...`` of its task: 100,000 control steps
of the simulator, the action repeat of the published figures included. The last policy, acting deterministically, is
evaluated for 10 episodes. The presets have the published settings; that of cheetah-run also has layer normalisation and
two gradient steps a step, chosen with seed 100. ``bf16`` rounds factors of matrix products and should change nothing
else. A cell whose row is in the table is not run again.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from evidence import Declared
from reproduction import Results, add_filters, cell_text, script_parser, show, train, wanted

EPISODES = 10
KEY = ("task", "precision", "seed")
PRECISIONS = ("float32", "bf16")
SEEDS = tuple(range(5))


@dataclass(frozen=True)
class Task:
    name: str
    action_repeat: int
    published: str
    """Mean and standard deviation of State SAC after 100,000 environment steps (arXiv 2004.04136, table 1)."""


TASKS = (
    Task("cartpole-swingup", 8, "835 +- 22"),
    Task("reacher-easy", 4, "746 +- 25"),
    Task("cheetah-run", 4, "616 +- 18"),
    Task("ball_in_cup-catch", 4, "746 +- 91"),
    Task("finger-spin", 2, "811 +- 46"),
    Task("walker-walk", 2, "891 +- 82"),
)
_NAMES = frozenset(task.name for task in TASKS)
DECLARED = Declared(frozenset({"cheetah-run"}), frozenset({100}), _NAMES, frozenset(SEEDS), tasks_too=False)


def run_cell(task: Task, precision: str, seed: int, results: Results, runs: Path) -> None:
    import rlopt

    if results.find(task=task.name, precision=precision, seed=seed):
        return
    run = runs / f"sac-{task.name}-{precision}-seed{seed}"
    quiet = ("--eval-every", "0", "--checkpoint-every", "10000", "--precision", precision)
    seconds = train("sac", run, "--preset", f"dmc/{task.name}", "--seed", str(seed), *quiet)
    evaluation = rlopt.evaluate(
        rlopt.load(run, device="cpu"),
        f"dm_control/{task.name}",
        n_episodes=EPISODES,
        seed=seed + 100_000,
        backend="gymnasium",
        action_repeat=task.action_repeat,
    )
    row = {"task": task.name, "precision": precision, "seed": seed, "returns": evaluation.returns.tolist()}
    results.add_run(row | {"mean_return": evaluation.mean, "wall_seconds": seconds}, run)


def table_text(results: Results) -> str:
    rows = DECLARED.reported(results.find())
    lines = [
        f"SAC with the presets `dmc/...`, 100,000 environment steps; up to {len(SEEDS)} seeds, IQM over seeds of the "
        f"mean of {EPISODES} deterministic episodes of the last policy [95% bootstrap interval]. Published: State "
        "SAC of arXiv 2004.04136, table 1, mean and standard deviation. The presets have its action repeats, learning "
        "rate, tau and first ent_coef; its networks are 1024 wide, ours 256. The preset of cheetah-run "
        "also has layer normalisation and two gradient steps a step, chosen with seed 100; nothing else was tuned.",
        "",
        "| task | action repeat | rlopt | rlopt, `--precision bf16` | published |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        cells = []
        for precision in PRECISIONS:
            own = [row for row in rows if (row["task"], row["precision"]) == (task.name, precision)]
            cells.append(cell_text([row["mean_return"] for row in own], len(SEEDS)))
        lines.append(f"| {task.name} | {task.action_repeat} | {' | '.join(cells)} | {task.published} |")
    return "\n".join([*lines, "", "`python scripts/reproduce_sac.py run`"])


def main() -> None:
    parser = script_parser(__doc__, "sac", KEY)
    add_filters(parser, task=str, precision=PRECISIONS, seed=int)
    args = parser.parse_args()
    if args.action == "run":
        DECLARED.check()
        for precision, seed, task in itertools.product(PRECISIONS, SEEDS, TASKS):
            if wanted(args, task=task.name, precision=precision, seed=seed):
                run_cell(task, precision, seed, args.results, args.runs)
    show(args, "results sac", table_text(args.results))


if __name__ == "__main__":
    main()
