"""The paper's comparison on point mazes: which augmentation makes a small data set enough? Cell by cell.

At most 1500, 3000 and 4000 recorded transitions of UMaze, Medium and Large, with at least one that reaches the goal;
augmented by nothing, at random, guided, or by learned dynamics; learned from by behaviour cloning and TD3+BC with the
weights 2.5 and 10 of Q. Random and guided data have the same share of simulated transitions; the arm ``moved`` is
guided without them, as in the paper. Each cell is one run of one seed, whose data have the same seed; every learner has
one configuration for all arms and mazes, chosen with seeds that are not reported (``DECLARED``). A cell whose row is in
the table is not run again, so the script can be stopped and called again at any time; the most informative come first.

Every 5,000 gradient steps the policy acts deterministically for 20 episodes, at the end for 50, and the share of those
that come to the goal is measured. Scores are 100 (R - random) / (expert - random) with the
environment's reference returns.

    python scripts/reproduce_guda.py run                     # a minute or two a cell on one core
    python scripts/reproduce_guda.py run --learner td3_bc_10 --env rlopt/PointMaze_UMaze-v0 --seed 20
    python scripts/reproduce_guda.py table                   # prints the tables from the kept runs
    python scripts/reproduce_guda.py write                   # puts them into docs/results/guda.md
    python scripts/reproduce_guda.py references              # measures the reference returns
"""

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from evidence import Arm, Declared, check_all_shown, check_headline
from reproduction import Results, add_filters, cell_text, script_parser, show, wanted

STEPS, EVERY = 20_000, 5_000
EPISODES, EPISODES_ON_THE_WAY = 50, 20
THRESHOLD = 0.9
"""Share of episodes that reach the goal at which a maze counts as solved."""
SEEDS = tuple(range(20, 30))
SIZES = {"rlopt/PointMaze_UMaze-v0": 1500, "rlopt/PointMaze_Medium-v0": 3000, "rlopt/PointMaze_Large-v0": 4000}
"""Environment -> recorded transitions (the paper's Table I)."""
DECLARED = Declared(frozenset(), frozenset({10, 100, 101}), frozenset(SIZES), frozenset(SEEDS), tasks_too=False)
"""Seeds 0 to 2 were reported for other settings before."""
SHORTEST = {"guide": "shortest-path"}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "guided": SHORTEST,
    "random": {"guide": "random"},
    "moved": {**SHORTEST, "simulated": 0.0},
    "learned": {"method": "learned-dynamics"},
    "none": {},
}
"""Arm -> settings of the augmentation, whose seed is that of the run."""
ARMS = (
    Arm("guided", "guided", "ours"),
    Arm("random", "random", "ablation"),
    Arm("moved", "guided, none simulated (published)", "peer"),
    Arm("learned", "learned dynamics", "peer"),
    Arm("none", "none", "peer"),
)
NETWORKS = {"net_arch": [64, 64], "learning_rate": 1e-3, "batch_size": 256, "normalize_observations": True}
CRITICS = NETWORKS | {"critic_layer_norm": True, "gamma": 0.995, "tau": 0.02}
"""The goal is some 500 steps away, so that a value needs many updates of the targets to come to the start."""
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "td3_bc_10": ("TD3+BC, alpha 10", CRITICS | {"alpha": 10.0}),
    "td3_bc": ("TD3+BC, alpha 2.5", CRITICS | {"alpha": 2.5}),
    "bc": ("BC", NETWORKS),
}
"""Learner -> title and settings: the same for every arm, maze and seed."""
MILLION = 1_000_000
FACTOR = (10_000, 100_000)
"""Augmented transitions besides a million."""
KEY = ("learner", "env", "arm", "augmented", "seed")


@dataclass(frozen=True)
class Cell:
    learner: str
    env: str
    arm: str
    augmented: int
    seed: int


def augmented_number(arm: str, wanted: int) -> int:
    """Of an arm's cells."""
    return 0 if arm == "none" else wanted


def cells() -> Iterator[Cell]:
    """The most informative first: three seeds of one question, then of the next, then the other seeds alike."""

    def of(learners: tuple[str, ...], arms: tuple[str, ...], numbers: tuple[int, ...], seeds: tuple[int, ...]) -> Any:
        for seed in seeds:
            for env in reversed(SIZES):
                for learner in learners:
                    for number in numbers:
                        for arm in arms:
                            yield Cell(learner, env, arm, augmented_number(arm, number), seed)

    for seeds in (SEEDS[:3], SEEDS[3:5], SEEDS[5:]):
        yield from of(("td3_bc_10",), ("guided", "random"), (MILLION,), seeds)
        yield from of(("bc",), ("guided", "random"), (MILLION,), seeds)
        yield from of(("td3_bc_10",), ("moved", "none", "learned"), (MILLION,), seeds)
        yield from of(("td3_bc",), ("guided", "random"), (MILLION,), seeds)
        yield from of(("td3_bc_10",), ("guided", "random"), FACTOR, seeds)
        yield from of(("bc",), ("moved", "none", "learned"), (MILLION,), seeds)
        yield from of(("td3_bc",), ("moved", "none", "learned"), (MILLION,), seeds)
        yield from of(("bc", "td3_bc"), ("guided", "random"), FACTOR, seeds)


@functools.lru_cache(maxsize=4)
def recorded(env: str, seed: int) -> Any:
    """The small data set: the first of the seeds 1000 seed, 1000 seed + 1, ... with a transition at the goal."""
    from rlopt.collect.generators import generate

    name = f"pointmaze-{env.partition('_')[2].partition('-')[0].lower()}"
    attempt = 0
    while True:
        # One simulator on one backend, so that the data do not depend on what is installed. D4RL's maze2d has no noise.
        data = generate(name, SIZES[env], seed=1000 * seed + attempt, n_envs=1, backend="gymnasium", noise=0.0)
        if data.rewards.any():
            return data
        attempt += 1


@functools.lru_cache(maxsize=1)
def training_data(env: str, arm: str, augmented: int, seed: int) -> Any:
    from rlopt.agents.guda.config import GuDAConfig
    from rlopt.agents.guda.tasks import make_augmented

    data = recorded(env, seed)
    if arm == "none":
        return data
    return make_augmented(data, GuDAConfig(n=augmented, seed=seed, include_source=True, **AUGMENTATIONS[arm]))


def build(cell: Cell) -> Any:
    import rlopt

    settings = dict(LEARNERS[cell.learner][1])
    names = ("net_arch", "critic_layer_norm")
    policy = {name: settings.pop(name) for name in names if name in settings}
    algorithm = rlopt.BC if cell.learner == "bc" else rlopt.TD3BC
    data = training_data(cell.env, cell.arm, cell.augmented, cell.seed)
    return algorithm("MlpPolicy", data, seed=cell.seed, device="cpu", policy_kwargs=policy, **settings)


def run_cell(cell: Cell, results: Results) -> None:
    import torch

    import rlopt

    key = {name: getattr(cell, name) for name in KEY}
    if results.find(**key):
        return
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    model = build(cell)
    reach: dict[int, float] = {}
    for steps in range(EVERY, STEPS + 1, EVERY):
        model.learn(EVERY, reset_num_timesteps=steps == EVERY)
        played = rlopt.evaluate(
            model,
            cell.env,
            n_episodes=EPISODES if steps == STEPS else EPISODES_ON_THE_WAY,
            seed=cell.seed + 100_000,
            n_envs=10,
            backend="gymnasium",
        )
        reach[steps] = float((played.returns > 0).mean())
    row = {
        "reach": list(reach.values()),
        "steps_to_threshold": next((steps for steps, share in reach.items() if share >= THRESHOLD), None),
        "final_reach": 100 * reach[STEPS],
        "returns": played.returns.tolist(),
        "score": score(played.mean, cell.env),
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }
    settings = {
        "learner": LEARNERS[cell.learner][1],
        "augmentation": AUGMENTATIONS[cell.arm],
        "recorded": SIZES[cell.env],
        "steps": STEPS,
        "versions": {"torch": torch.__version__, "rlopt": rlopt.__version__},
    }
    results.add(key | row, settings)
    print(*key.values(), f"reach {row['final_reach']:.0f} %, {row['cpu_seconds']:.0f} s", flush=True)


def score(mean_return: float, env: str) -> float:
    from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES

    random, expert = FIXED_GOAL_MAZES[env].reference_returns
    return float(100 * (mean_return - random) / (expert - random))


def table_text(results: Results) -> str:
    """The tables; refuses what :mod:`evidence` refuses."""
    rows = DECLARED.reported(results.find(), task="env")
    check_all_shown(rows, ARMS)
    parts = [
        f"After {STEPS:,} gradient steps on the recorded and a million augmented transitions; up to {len(SEEDS)} "
        f"seeds, each with data of its own; IQM over seeds [95% bootstrap interval] of {EPISODES} deterministic "
        "episodes of the last policy. One configuration of each learner for all arms, chosen with seeds "
        f"{', '.join(map(str, sorted(DECLARED.tuning_seeds)))}, of which none is reported.",
        "**Percent of episodes that reach the goal**",
        comparison(rows, "final_reach"),
        f"**Gradient steps until {100 * THRESHOLD:g} % of {EPISODES_ON_THE_WAY} episodes reach it**: median over "
        "seeds, and how many seeds came there",
        comparison(rows, "steps_to_threshold"),
        "**Normalised score** (random 0, planner with PD controller 100)",
        comparison(rows, "score"),
        "**Percent that reach the goal, by the number of augmented transitions**",
        by_number(rows),
        "`python scripts/reproduce_guda.py run`",
    ]
    return "\n\n".join(parts)


def comparison(rows: list[Any], column: str) -> str:
    from rlopt.statistics.aggregates import iqm

    lines = ["| maze, recorded transitions | learner | " + " | ".join(arm.title for arm in ARMS) + " |"]
    lines.append("|---" * (2 + len(ARMS)) + "|")
    for env, size in SIZES.items():
        for learner, (title, _) in LEARNERS.items():
            found = {arm.key: values(rows, column, learner, env, arm.key, MILLION) for arm in ARMS}
            if column == "steps_to_threshold":
                texts = [threshold_text(found[arm.key]) for arm in ARMS]
            else:
                if all(found.values()):
                    check_headline(found, ARMS, found, iqm, f"{env}, {title}")
                texts = [cell_text(found[arm.key], len(SEEDS)) for arm in ARMS]
            lines.append(f"| {env}, {size} | {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def by_number(rows: list[Any]) -> str:
    numbers = (*FACTOR, MILLION)
    arms = [arm for arm in ARMS if arm.key in ("guided", "random")]
    heads = [f"{arm.title}, {number:,}" for number in numbers for arm in arms]
    lines = ["| maze | learner | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for env in SIZES:
        for learner, (title, _) in LEARNERS.items():
            texts = [
                cell_text(values(rows, "final_reach", learner, env, arm.key, number), len(SEEDS))
                for number in numbers
                for arm in arms
            ]
            lines.append(f"| {env} | {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def values(rows: list[Any], column: str, learner: str, env: str, arm: str, augmented: int) -> list[Any]:
    """Of the cells that were run."""
    wanted = {"learner": learner, "env": env, "arm": arm, "augmented": augmented_number(arm, augmented)}
    return [row[column] for row in rows if wanted.items() <= row.items()]


def threshold_text(steps: list[int | None]) -> str:
    if not steps:
        return "not run"
    came = [value for value in steps if value is not None]
    # Those that did not come there count as late.
    middle = np.median([np.inf if value is None else value for value in steps])
    return f"{f'{middle:,.0f}' if np.isfinite(middle) else 'not reached'} ({len(came)} of {len(steps)})"


def references(episodes: int) -> None:
    """Prints the mean returns of random actions and of the controller, with standard errors."""
    import rlopt
    from rlopt.collect.point_maze import GoalController

    for env_id in SIZES:
        for kind in ("random", "controller"):
            env = rlopt.make_env(env_id, n_envs=20, seed=12345)
            generator, controller = np.random.default_rng(0), GoalController(env_id)
            observations = env.reset()
            totals, returns = np.zeros(20), []
            while len(returns) < episodes:
                uniform = generator.uniform(-1, 1, (20, 2)).astype(np.float32)
                observations, rewards, dones, _ = env.step(uniform if kind == "random" else controller(observations))
                totals += rewards
                returns += totals[dones].tolist()
                totals[dones] = 0
            error = np.std(returns) / np.sqrt(len(returns))
            print(f"{env_id} {kind}: {np.mean(returns):.1f} +- {error:.1f} ({len(returns)} episodes)", flush=True)


def main() -> None:
    parser = script_parser(__doc__, "guda", KEY, "references", runs=False)
    add_filters(parser, learner=sorted(LEARNERS), env=sorted(SIZES), arm=sorted(AUGMENTATIONS), seed=int)
    args = parser.parse_args()

    if args.action == "references":
        references(200)
        return
    if args.action == "run":
        DECLARED.check()
        for cell in cells():
            if wanted(args, learner=cell.learner, env=cell.env, arm=cell.arm, seed=cell.seed):
                run_cell(cell, args.results)
    show(args, "results guda", table_text(args.results))


if __name__ == "__main__":
    main()
