"""LOOP and its peers on many processes with one constant each and no oracle: what their actions cost.

The cost is the sum of the gaps of the actions to the best one, the regret without the noise of the process. No agent is
told the span. Each runs with its paper's constants; ``*`` marks one constant that was chosen, the same for all
processes, by the tuning seeds 1000, 1001, ... alone. What is reported are the seeds 0, 1, ... A run fails when it costs
more than half of what uniform actions do. Seeds come in rounds over all processes and agents, so that the table is
balanced whenever the study is stopped; a run whose row is there is not run again.

There are two studies: of tabular processes, and of processes that are linear in features or mixtures of known kernels,
where linear LOOP and MLE-LOOP know the features or the kernels and rewards, and the tabular agents do not.

    python scripts/study_loop.py run                       # 50 seeds
    python scripts/study_loop.py run --study structured --seeds 10
    python scripts/study_loop.py tune                      # the seeds 1000 to 1002, more constants
    python scripts/study_loop.py table                     # prints the table from the kept runs
    python scripts/study_loop.py write                     # puts it into docs/results/loop.md
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import loop_processes
import numpy as np
from reproduction import script_parser, show, wanted

FIRST_TUNING_SEED = 1000
TUNING_SEEDS = 3
FAILURE = 0.5
"""Of the cost of uniform actions."""


class Agent(NamedTuple):
    """An agent of the study."""

    title: str
    agent: str
    settings: dict[str, Any]


AGENTS = {
    "loop": Agent("LOOP*", "loop", {}),
    "loop-lazy": Agent("LOOP*, lazier", "loop", {"switch_multiplier": 2.0}),
    "loop-theory": Agent("LOOP", "loop", {"beta_scale": 1.0}),
    "imed_rl": Agent("IMED-RL", "imed_rl", {}),
    "psrl": Agent("PSRL", "psrl", {}),
    "tsde": Agent("TSDE", "tsde", {"rewards": "noisy"}),
    "kl_ucrl": Agent("KL-UCRL", "kl_ucrl", {}),
    "kl_ucrl-tuned": Agent("KL-UCRL*", "kl_ucrl", {"transition_scale": 0.01, "reward_scale": 0.3}),
    "ucrl3": Agent("UCRL3", "ucrl3", {}),
    "ucrl2": Agent("UCRL2", "ucrl2", {"transition_scale": 14.0, "reward_scale": 7.0}),
    "ucrl2-tuned": Agent("UCRL2*", "ucrl2", {"transition_scale": 0.005, "reward_scale": 0.1}),
    "pmevi_dt": Agent("PMEVI-DT", "pmevi_dt", {}),
    "rvi_q": Agent("RVI Q (no optimism)", "rvi_q", {}),
}
"""Those that are reported."""
STRUCTURED: dict[str, Agent] = {
    "linear_loop": Agent("linear LOOP*", "linear_loop", {"beta_scale": 1e-4}),
    "mle_loop": Agent("MLE-LOOP*", "mle_loop", {"beta_scale": 2e-2}),
    **{name: AGENTS[name] for name in ("loop", "imed_rl", "psrl", "kl_ucrl-tuned", "ucrl2-tuned")},
}
"""Those that are reported on processes with structure."""
SCALES = (0.001, 0.003, 0.01, 0.03)
TRIED: dict[str, Agent] = {
    **{
        f"loop {scale:g} x{multiple:g}": Agent("", "loop", {"beta_scale": scale, "switch_multiplier": multiple})
        for scale in SCALES
        for multiple in (1.5, 2.0)
    },
    **{
        f"kl_ucrl {scale:g}": Agent("", "kl_ucrl", {"transition_scale": scale, "reward_scale": 0.3})
        for scale in (0.003, 0.01, 0.03)
    },
    **{
        f"ucrl2 {scale:g}": Agent("", "ucrl2", {"transition_scale": scale, "reward_scale": 0.1})
        for scale in (0.001, 0.005, 0.02)
    },
}
"""What the tuning seeds choose among."""
STRUCTURED_TRIED: dict[str, Agent] = {
    **{f"linear_loop {scale:g}": Agent("", "linear_loop", {"beta_scale": scale}) for scale in (3e-5, 1e-4, 3e-4, 1e-3)},
    **{f"mle_loop {scale:g}": Agent("", "mle_loop", {"beta_scale": scale}) for scale in (5e-3, 2e-2, 5e-2)},
}


class Study(NamedTuple):
    """A table."""

    marker: str
    processes: dict[str, Callable[[], Any]]
    agents: dict[str, Agent]
    tried: dict[str, Agent]
    ours: tuple[str, ...]
    """Whose costs the others are compared with."""


STUDIES = {
    "tabular": Study("study loop", loop_processes.PROCESSES, AGENTS, TRIED, ("loop",)),
    "structured": Study(
        "study structured", loop_processes.STRUCTURED, STRUCTURED, STRUCTURED_TRIED, ("linear_loop", "mle_loop")
    ),
}


def fits(process: str, agent: Agent) -> bool:
    """Whether the process has what the agent needs to know."""
    needed = {"linear_loop": "features", "mle_loop": "kernels"}.get(agent.agent)
    return needed is None or hasattr(made(process).mdp, needed)


@functools.cache
def made(process: str) -> Any:
    """A process to look at."""
    return loop_processes.make(process)


def run_all(args: argparse.Namespace, study: Study, agents: dict[str, Agent], seeds: Sequence[int]) -> None:
    """Seed after seed, all processes and agents."""
    for seed in seeds:
        for process in study.processes:
            for name, agent in agents.items():
                if not fits(process, agent):
                    continue
                cell = {"process": process, "agent": name, "steps": args.steps, "seed": seed}
                if wanted(args, process=process, agent=name) and not args.results.find(**cell):
                    args.results.add(*played(cell, agent))
                    row = args.results.find(**cell)[0]
                    print(f"{process}, {name}, seed {seed}: {row['cost']:.1f}, {row['seconds']:.1f} s", flush=True)


def played(cell: dict[str, Any], agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run: its row, and its settings with the versions."""
    from rlopt import __version__
    from rlopt.average_reward import switch_times
    from rlopt.envs.average_reward.gap_recorder import GapRecorder
    from rlopt.registry import agent_spec, resolve

    env: Any = GapRecorder(loop_processes.make(cell["process"]))
    model: Any = resolve(agent_spec(agent.agent).algorithm)(env, seed=cell["seed"], **agent.settings)
    start = time.perf_counter()
    model.learn(cell["steps"], log_interval=None)
    seconds = time.perf_counter() - start
    row = {
        **cell,
        "cost": round(float(env.losses.sum()), 3),
        "switches": len(switch_times(model)),
        "seconds": round(seconds, 2),
    }
    return row, {"config": dict(vars(model.config)), "versions": {"rlopt": __version__, "numpy": np.__version__}}


@functools.cache
def uniform_cost(process: str) -> float:
    """What uniform actions cost a step in the long run."""
    from rlopt.average_reward import evaluate_policy

    mdp = made(process).mdp
    uniform = np.full((mdp.n_states, mdp.n_actions), 1.0 / mdp.n_actions)
    return float(mdp.gain - evaluate_policy(mdp, uniform).gain)


def table_text(args: argparse.Namespace, study: Study, agents: dict[str, Agent], seeds: Sequence[int]) -> str:
    """Median costs and failures of each process, switches and ratios below."""
    costs, switches, seconds = {}, {}, {}
    for process in study.processes:
        for name in agents:
            rows = args.results.find(process=process, agent=name, steps=args.steps)
            rows = [row for row in rows if row["seed"] in seeds]
            if rows:
                costs[process, name] = np.array([row["cost"] for row in rows])
                switches[process, name] = float(np.median([row["switches"] for row in rows]))
                seconds[process, name] = float(np.median([row["seconds"] for row in rows]))
    processes = [p for p in study.processes if any((p, name) in costs for name in agents)]
    agents = {name: agent for name, agent in agents.items() if any((p, name) in costs for p in processes)}
    if not processes:
        return "no runs"
    counts = [len(found) for found in costs.values()]
    titles = [agent.title or name for name, agent in agents.items()]
    number = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(max(counts))
    lines = [
        f"{args.steps:,} steps, {number} seeds; medians over seeds of the cost, in brackets the "
        "share of runs that failed (more than half of what uniform actions cost):",
        "",
        f"| process | uniform | {' | '.join(titles)} |",
        "|---" * (len(titles) + 2) + "|",
    ]
    ratios: dict[str, list[float]] = {name: [] for name in agents}
    failed: dict[str, list[float]] = {name: [] for name in agents}
    for process in processes:
        limit = FAILURE * uniform_cost(process) * args.steps
        middles = {name: float(np.median(costs[process, name])) for name in agents if (process, name) in costs}
        peers = [middle for name, middle in middles.items() if agents[name].agent not in study.ours]
        texts = []
        for name in agents:
            if name not in middles:
                texts.append("-")
                continue
            share = float(np.mean(costs[process, name] > limit))
            failed[name].extend((costs[process, name] > limit).tolist())
            if peers:
                ratios[name].append(middles[name] / max(min(peers), 1e-9))
            texts.append(f"{middles[name]:,.0f}" + (f" ({share:.0%})" if share else ""))
        lines.append(f"| {process} | {2 * limit:,.0f} | {' | '.join(texts)} |")

    def row(title: str, value: Any) -> str:
        return f"| {title} | | {' | '.join(value(name) for name in agents)} |"

    def median_of(found: dict[tuple[str, str], float], name: str, digits: int) -> str:
        values = [value for (_, agent), value in found.items() if agent == name]
        return f"{np.median(values):.{digits}f}" if values else "-"

    lines += [
        row(
            "cost over the best peer's: median", lambda name: f"{np.median(ratios[name]):.2f}" if ratios[name] else "-"
        ),
        row("the same, largest", lambda name: f"{np.max(ratios[name]):.1f}" if ratios[name] else "-"),
        row("failed runs", lambda name: f"{np.mean(failed[name]):.1%}"),
        row("switches", lambda name: median_of(switches, name, 0)),
        row("seconds", lambda name: median_of(seconds, name, 1)),
        "",
        f"`python scripts/study_loop.py run --study {args.study} --steps {args.steps} --seeds {args.seeds}`",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs or prints the study."""
    parser = script_parser(__doc__, "loop_study", ("process", "agent", "steps", "seed"), "tune", runs=False)
    parser.set_defaults(page=parser.get_default("page").with_name("loop.md"))
    parser.add_argument("--study", choices=STUDIES, default="tabular", help="which processes")
    processes = {name for study in STUDIES.values() for name in study.processes}
    parser.add_argument("--process", choices=sorted(processes), help="only this process")
    parser.add_argument("--agent", help="only this agent")
    parser.add_argument("--steps", type=int, default=30_000, help="of a run")
    parser.add_argument("--seeds", type=int, default=50, help="that are reported")
    parser.add_argument("--tuning", action="store_true", help="table of the tuning seeds")
    args = parser.parse_args()

    if args.action == "tune":
        args.tuning = True
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS) if args.tuning else range(args.seeds)
    study = STUDIES[args.study]
    if args.process not in (None, *study.processes):
        parser.error(f"{args.process} is not in the study {args.study}: add --study, one of {', '.join(STUDIES)}")
    agents = study.tried if args.tuning else study.agents
    if args.action in ("run", "tune"):
        run_all(args, study, agents, seeds)
    show(args, study.marker, table_text(args, study, agents, seeds))


if __name__ == "__main__":
    main()
