"""Several seeds in one process (``rlopt train --seeds``) against runs of one seed: environment steps per second in all.

Runs that are done in turn go at the speed of one run, so the ratio of the two rates is how much earlier all seeds are
ready. Whole training is measured: acting, environment, replay or rollout, gradient steps. Each contestant lives in a
process of its own; they work in turn, round after round.

    python scripts/benchmark_seeds.py --agent off_policy_mdpo --env HalfCheetah-v5 --steps 200
    python scripts/benchmark_seeds.py --agent mdpo --preset mujoco/half_cheetah --steps 20480
    python scripts/benchmark_seeds.py --agent off_policy_mdpo --env dm_control/cheetah-run --device cuda --steps 5000
"""

import argparse
import functools
from typing import Any

from contestants import compete, race_parser, serve, table, worker_command, write_result

WARM_UP = 1_000
"""Environment steps of random actions before the off-policy agent's first gradient step."""


def work(args: argparse.Namespace, n_seeds: int) -> None:
    """Serves one contestant, which trains its seeds on and on."""
    import torch

    from rlopt.optim.lockstep import Lockstep
    from rlopt.registry import agent_spec, resolve
    from rlopt.runs.build import build
    from rlopt.settings.fields import from_mapping
    from rlopt.settings.presets import load_preset, split_settings
    from rlopt.settings.run import RunConfig

    torch.set_num_threads(args.threads)
    config_class = resolve(agent_spec(args.agent).config)
    values: dict[str, Any] = load_preset(args.agent, args.preset) if args.preset else {"env": args.env}
    values |= {"device": args.device, "num_threads": args.threads, "total_timesteps": 10**9}
    off_policy = {"learning_starts": WARM_UP, "buffer_size": 200_000, "kl_coef": 0.1}
    values |= {name: value for name, value in off_policy.items() if args.agent == "off_policy_mdpo"}
    run_values, agent_values = split_settings({**values, "compile": args.compile}, config_class, "benchmark")
    agent_config = from_mapping(config_class, agent_values, "benchmark")
    models: list[Any] = [
        build(args.agent, from_mapping(RunConfig, {**run_values, "seed": seed}, "benchmark"), agent_config)[0]
        for seed in range(n_seeds)
    ]

    torch.set_num_threads(args.threads)

    def train(model: Any, count: int) -> None:
        if len(models) > 1:  # as rlopt train --seeds: the threads are for the runs together
            torch.set_num_threads(1)
        model.learn(count, reset_num_timesteps=False)

    def training(count: int) -> int:
        before = sum(model.num_timesteps for model in models)
        Lockstep([functools.partial(train, model, count) for model in models]).run()
        if args.device != "cpu":
            torch.cuda.synchronize()
        return sum(model.num_timesteps for model in models) - before

    training(WARM_UP + 10)  # compilation, and what is made at the first call
    serve({"training": training})


def main() -> None:
    parser = race_parser(__doc__, ("together", "alone"))
    parser.add_argument("--agent", default="off_policy_mdpo", choices=["mdpo", "off_policy_mdpo"])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--preset", help="settings of a preset, its environment included")
    parser.add_argument("--seeds", type=int, default=8, help="how many in one process")
    parser.add_argument("--compile", default="on", choices=["auto", "on", "off"])
    parser.add_argument("--steps", type=int, default=200, help="environment steps of each seed in a round")
    args = parser.parse_args()
    if args.worker:
        work(args, args.seeds if args.worker == "together" else 1)
        return
    together = f"{args.seeds} seeds"
    commands = {together: worker_command("together"), "1 seed": worker_command("alone")}
    if args.device == "cpu" and args.threads > 1:
        commands["1 seed, 1 thread"] = worker_command("alone", "--threads", "1")
    rates = compete(commands, {"training": args.steps}, args.rounds)
    print(table(rates, together))
    write_result(args, rates=rates)


if __name__ == "__main__":
    main()
