"""LOOP by the paper, with a known span: regret, switches and speed beside the optimal policy's and uniform actions'.

python scripts/benchmark_loop.py --env rlopt/RiverSwim-v0 --steps 100000 --seeds 3
python scripts/benchmark_loop.py --kind linear --env rlopt/AggregatedRiverSwim-v0 --planner ellipsoid
"""

import argparse
import statistics
import time
from typing import Any

import gymnasium
import numpy as np

import rlopt
import rlopt.envs.tasks.own_tasks


def played(env: Any, actions: Any, steps: int, seed: int) -> float:
    """Sum of the rewards of a fixed policy ``actions(state)``."""
    state, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(steps):
        state, reward, *_ = env.step(actions(state))
        total += reward
    return total


def main() -> None:
    """Prints a line for each seed and their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("tabular", "linear"), default="tabular")
    parser.add_argument("--env", default="rlopt/RiverSwim-v0")
    parser.add_argument("--n-states", type=int, help="of RiverSwim")
    parser.add_argument("--planner", choices=("bonus", "ellipsoid"), default="bonus")
    parser.add_argument("--beta-scale", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    kwargs = {} if options.n_states is None else {"n_states": options.n_states}
    agent_class = rlopt.LOOP if options.kind == "tabular" else rlopt.LinearLOOP
    rows = []
    print(
        "seed  regret  of the optimal policy  of uniform actions  switches  seconds  CPU seconds  plans out of the set"
    )
    for seed in range(options.seeds):
        env: Any = gymnasium.make(options.env, **kwargs).unwrapped
        settings: dict[str, Any] = {"planner": options.planner, "beta_scale": options.beta_scale, "seed": seed}
        settings["span"] = env.mdp.span
        if options.kind == "tabular":
            settings["procedure"] = "paper"
        wall, cpu = time.perf_counter(), time.process_time()
        agent = agent_class(env, **settings).learn(options.steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best, policy = env.mdp.gain * options.steps, env.mdp.solution.policy.tolist()
        rng = np.random.default_rng(seed)
        draws = iter(rng.integers(env.mdp.n_actions, size=options.steps).tolist())
        row = (
            best - agent.reward_sum,
            best - played(env, lambda state, policy=policy: policy[state], options.steps, seed),
            best - played(env, lambda _, draws=draws: next(draws), options.steps, seed),
            agent.n_switches,
            wall,
            cpu,
            sum(not plan.certificate.in_set for plan in agent.plans),
        )
        rows.append(row)
        print(seed, *(f"{value:10.2f}" for value in row))
    print("median", *(f"{statistics.median(column):.2f}" for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
