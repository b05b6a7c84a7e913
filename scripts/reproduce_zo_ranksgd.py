"""Policies found by ZO-RankSGD from rankings, beside CMA-ES (ranks) and ARS (values) at equal numbers of episodes.

All methods search the same linear policy, on the same evaluator (common seeds within a query, observations normalised
by statistics that are frozen within it), with one configuration each. A seed whose row is in the table is not run
again, so the script can be stopped and called again at any time.

    python scripts/reproduce_zo_ranksgd.py run                        # everything
    python scripts/reproduce_zo_ranksgd.py run --task Swimmer-v5 --method ars
    python scripts/reproduce_zo_ranksgd.py table                      # prints the tables from the kept runs
    python scripts/reproduce_zo_ranksgd.py write                      # puts them into the page in docs/results
"""

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from reproduction import cell_text, script_parser, show, wanted

EVALUATION = 1_000_003
"""Seed of the episodes in which a policy is judged; no search plays them."""
SOLVED = 900.0


@dataclass(frozen=True)
class Task:
    env: str
    episodes: int
    """Budget, those of line searches included."""
    seeds: int
    methods: tuple[str, ...]
    episodes_per_candidate: int = 1
    judged: int = 20
    """Episodes that judge a policy."""
    until_solved: bool = False
    """Judges the current point after every query, and stops once it is solved."""


SEARCHES = ("auto", "cmaes", "one_plus_five", "ranksgd", "ars")
PERSON = ("auto_person", "person")
"""Those that a simulated person answers."""
TASKS = {
    "InvertedPendulum-v5": Task("InvertedPendulum-v5", 400, 3, ("ranksgd",)),
    "InvertedPendulum-v5-person": Task("InvertedPendulum-v5", 600, 10, PERSON, until_solved=True),
    "InvertedPendulum-v5-180": Task("InvertedPendulum-v5", 180, 10, SEARCHES),
    "Hopper-v5": Task("Hopper-v5", 240, 10, SEARCHES),
    "Walker2d-v5": Task("Walker2d-v5", 240, 10, SEARCHES),
    "Reacher-v5": Task("Reacher-v5", 3200, 10, SEARCHES, episodes_per_candidate=4, judged=100),
    "cartpole-swingup": Task("dm_control/cartpole-swingup", 240, 10, SEARCHES),
    "Swimmer-v5": Task("Swimmer-v5", 240, 10, SEARCHES),
    "HalfCheetah-v5": Task("HalfCheetah-v5", 240, 10, SEARCHES),
}


@dataclass(frozen=True)
class Method:
    title: str
    sees: str
    settings: dict[str, Any] = field(default_factory=dict)


METHODS = {
    "ranksgd": Method(
        "ZO-RankSGD, m = k = 10",
        "rankings",
        {"m": 10, "k": 10, "smoothing": 0.3, "learning_rate": 1.0, "line_search_points": 5, "line_search_decay": 0.3},
    ),
    "person": Method(
        "ZO-RankSGD, m = 6, k = 3",
        "a noisy person's rankings",
        {
            "m": 6,
            "k": 3,
            "oracle": "noisy",
            "smoothing": 0.3,
            "learning_rate": 1.0,
            "line_search_points": 6,
            "line_search_decay": 0.3,
            "best_query_in_line_search": True,
        },
    ),
    "auto_person": Method(
        "auto (mirrored CMA-ES), m = 6, k = 3",
        "a noisy person's rankings",
        {"search": "auto", "m": 6, "k": 3, "oracle": "noisy", "smoothing": 0.3},
    ),
    "cmaes": Method("CMA-ES, 10 candidates", "rankings", {"population": 10, "smoothing": 0.3}),
    "auto": Method("auto", "rankings", {"search": "auto", "m": 10, "k": 10, "smoothing": 0.3}),
    "one_plus_five": Method("(1 + 5)-ES", "rankings", {"search": "one_plus_lambda", "m": 6, "k": 6, "smoothing": 0.3}),
    "ars": Method(
        "ARS, 8 pairs, 4 best", "values", {"directions": 8, "top": 4, "smoothing": 0.03, "learning_rate": 0.02}
    ),
}


class Player:
    """Plays and judges parameters of a linear policy in one task."""

    def __init__(self, task: Task, seed: int, **settings: Any) -> None:
        from rlopt import RankedPolicySearch
        from rlopt.envs.settings import EnvSettings

        env = EnvSettings(task.env, num_threads=1)
        arguments = {"seed": seed, "episodes_per_candidate": task.episodes_per_candidate, **settings}
        self.task, self.seed = task, seed
        self.search = RankedPolicySearch("LinearPolicy", env, **arguments)
        self.spent = 0

    def play(self, query: Any) -> np.ndarray:
        """Mean returns of a peer's candidates, taken into the statistics of observations."""
        played = self.search.evaluate_candidates(query)
        self.search.normalizer.update(played.moments)
        self.spent += played.lengths.size
        return played.returns

    def judge(self, point: np.ndarray) -> float:
        from rlopt.agents.zo_ranksgd.policies.candidates import CandidateEvaluator, round_seeds

        seeds = round_seeds(EVALUATION + self.seed, 0, 1, self.task.judged, True)
        assert self.search.env is not None
        evaluator = CandidateEvaluator(self.search.env, self.search.policy_vector)
        return float(evaluator.evaluate(point[None], seeds, self.search.normalizer).returns[0])


def searched(task: Task, method: str, seed: int) -> dict[str, Any]:
    """One seed of one method."""
    start = time.perf_counter()
    if method not in ("cmaes", "ars"):
        result = _ranked(task, METHODS[method].settings, seed)
    else:
        result = _peer(task, method, seed)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def _ranked(task: Task, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    player = Player(task, seed, **settings)
    search = player.search
    curve: list[tuple[int, float]] = []
    solved: dict[str, int] | None = None
    for queries in range(1, 10**6):
        before = search.num_queries
        search.learn(10**9, None, None, reset_num_timesteps=False, total_episodes=task.episodes, total_queries=queries)
        if search.num_queries == before:
            break
        assert search.last_round is not None
        curve.append((search.num_episodes, float(np.nanmedian(search.last_round.evaluation.returns))))
        if task.until_solved and player.judge(search.point) >= SOLVED:
            solved = {"queries": search.num_queries, "clips": search.num_episodes}
            break
    return {
        "return": player.judge(search.point),
        "episodes": search.num_episodes,
        "queries": search.num_queries,
        "steps": search.num_timesteps,
        "solved": solved,
        "curve": curve,
    }


def _peer(task: Task, method: str, seed: int) -> dict[str, Any]:
    from rlopt.agents.zo_ranksgd import comparators
    from rlopt.feedback.ranking import Ranking

    player = Player(task, seed)
    kind = {"cmaes": comparators.CMAES, "ars": comparators.ARS}[method]
    peer = kind(player.search.policy_vector.initial(), seed=seed, **METHODS[method].settings)
    curve: list[tuple[int, float]] = []
    while player.spent + len(peer.ask().candidates) * task.episodes_per_candidate <= task.episodes:
        returns = player.play(peer.ask())
        worst = np.nanmin(returns) if np.isfinite(returns).any() else 0.0
        values = -np.where(np.isfinite(returns), returns, worst)
        peer.tell(values if peer.takes_values else Ranking.from_values(values))
        curve.append((player.spent, float(np.nanmedian(returns))))
    return {
        "return": player.judge(peer.point),
        "episodes": player.spent,
        "queries": peer.iteration,
        "steps": None,
        "solved": None,
        "curve": curve,
    }


def run_all(args: argparse.Namespace) -> None:
    """Seed by seed, so that what is stopped early has as many seeds of each."""
    for seed in range(args.seeds or max(task.seeds for task in TASKS.values())):
        for name, task in TASKS.items():
            for method in task.methods:
                if seed < task.seeds and wanted(args, task=name, method=method):
                    run_cell(name, method, seed, args)


def run_cell(name: str, method: str, seed: int, args: argparse.Namespace) -> None:
    import rlopt

    if args.results.find(task=name, method=method, seed=seed):
        return
    task = TASKS[name]
    result = {"task": name, "method": method, "seed": seed, **searched(task, method, seed)}
    config = {"env": task.env, "episodes": task.episodes, "episodes_per_candidate": task.episodes_per_candidate}
    versions = {"rlopt": rlopt.__version__, "numpy": np.__version__}
    args.results.add(result, {"config": config | METHODS[method].settings, "versions": versions})
    print(f"{name} {method} seed {seed}: return {result['return']:.1f}, {result['seconds']:.0f} s", flush=True)


def results_of(name: str, method: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = args.results.find(task=name, method=method)
    return [row for row in rows if row["seed"] < TASKS[name].seeds]


def table_text(args: argparse.Namespace) -> str:
    return "\n".join([*_pendulum(args), "", *_person(args), "", *_searches(args)])


def _pendulum(args: argparse.Namespace) -> list[str]:
    task = TASKS["InvertedPendulum-v5"]
    lines = [
        "**InvertedPendulum-v5, exact rankings.** Linear policy (5 parameters), m = k = 10, "
        f"{task.episodes} episodes in all, line searches included; mean return of {task.judged} other episodes "
        "(1000 is the most):",
        "",
        "| seed | return | queries | episodes |",
        "|---|---|---|---|",
    ]
    for seed, result in enumerate(results_of("InvertedPendulum-v5", "ranksgd", args)):
        lines.append(f"| {seed} | {result['return']:.0f} | {result['queries']} | {result['episodes']} |")
    return lines


def _person(args: argparse.Namespace) -> list[str]:
    task = TASKS["InvertedPendulum-v5-person"]
    lines = [
        "**InvertedPendulum-v5, a noisy simulated person.** m = 6, k = 3, line searches of 6 clips; Plackett-Luce "
        "noise of temperature .2 in units of a round's standard deviation, near ties exchanged, sometimes fewer than k "
        "ranked, 5% without an opinion (`--oracle noisy`). The table counts clips until the current policy has a mean "
        f"return of at least {SOLVED:.0f} over {task.judged} other episodes, judged after every query; at most "
        f"{task.episodes} clips:",
        "",
        f"| search | {' | '.join(f'seed {seed}' for seed in range(task.seeds))} | median | most |",
        "|---" * (task.seeds + 3) + "|",
    ]
    for method in PERSON:
        rows = {row["seed"]: row for row in results_of("InvertedPendulum-v5-person", method, args)}
        cells = [_clips(rows.get(seed)) for seed in range(task.seeds)]
        spent = [row["solved"]["clips"] if row["solved"] else np.inf for row in rows.values()]
        ends = [_clips_or_more(each(spent), task.episodes) if spent else "-" for each in (np.median, np.max)]
        lines.append(f"| {METHODS[method].title} | {' | '.join([*cells, *ends])} |")
    return lines


def _clips_or_more(clips: float, most: int) -> str:
    return f"{clips:.0f}" if np.isfinite(clips) else f"over {most}"


def _clips(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    return str(row["solved"]["clips"]) if row["solved"] else f"not in {row['episodes']}"


def _searches(args: argparse.Namespace) -> list[str]:
    names = [name for name, task in TASKS.items() if task.methods == SEARCHES]
    lines = [
        "**The searches at equal numbers of episodes, exact rankings.** The same linear policy and evaluator, one "
        "configuration for all tasks; CMA-ES is the package cma's, ARS sees the returns themselves. Mean return of the "
        f"point that a search ends at, over other episodes: interquartile mean over {TASKS[names[0]].seeds} seeds [95% "
        "bootstrap interval]; Reacher-v5 ranks means of 4 episodes with common seeds:",
        "",
        "| method | sees | "
        + " | ".join(f"{TASKS[name].env}, {TASKS[name].episodes:,} episodes" for name in names)
        + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for method, title, sees in [(each, METHODS[each].title, METHODS[each].sees) for each in SEARCHES] + [
        ("zero", "all parameters zero", "nothing")
    ]:
        found = [[row["return"] for row in results_of(name, method, args)] for name in names]
        cells = [_fine(values, TASKS[name].seeds) for name, values in zip(names, found, strict=True)]
        lines.append(f"| {title} | {sees} | {' | '.join(cells)} |")
    return [*lines, "", "`python scripts/reproduce_zo_ranksgd.py run`"]


def _fine(values: list[float], n_seeds: int) -> str:
    """As :func:`reproduction.cell_text`, with a decimal where numbers are small."""
    return cell_text(values, n_seeds, decimals=0 if not values or np.abs(values).max() >= 100 else 1)


def judge_zero(args: argparse.Namespace) -> None:
    """The policy that all searches begin with, judged in the same episodes."""
    for name, task in TASKS.items():
        if task.methods == SEARCHES and args.task in (None, name) and args.method is None:
            for seed in range(args.seeds or task.seeds):
                if not args.results.find(task=name, method="zero", seed=seed):
                    player = Player(task, seed)
                    score = player.judge(player.search.point)
                    args.results.add({"task": name, "method": "zero", "seed": seed, "return": score})


def main() -> None:
    parser = script_parser(__doc__, "zo_ranksgd_policies", ("task", "method", "seed"), runs=False)
    parser.add_argument("--task", choices=sorted(TASKS), help="run only this task")
    parser.add_argument("--method", choices=sorted(METHODS), help="run only this method")
    parser.add_argument("--seeds", type=int, help="run only so many seeds of each")
    args = parser.parse_args()

    if args.action == "run":
        run_all(args)
        judge_zero(args)
    show(args, "results zo_ranksgd_policies", table_text(args))


if __name__ == "__main__":
    main()
