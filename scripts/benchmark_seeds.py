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
import json
import sys
from pathlib import Path
from typing import Any

from contestants import compete, serve, table

WARM_UP = 1_000
"""Environment steps of random actions before the off-policy agent's first gradient step."""


def worker(args: argparse.Namespace) -> None:
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
        for seed in range(args.worker)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="off_policy_mdpo", choices=["mdpo", "off_policy_mdpo"])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--preset", help="settings of a preset, its environment included")
    parser.add_argument("--seeds", type=int, default=8, help="how many in one process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", default="on", choices=["auto", "on", "off"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="environment steps of each seed in a round")
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    settings = ["--agent", args.agent, "--env", args.env, "--device", args.device, "--compile", args.compile]
    settings += ["--preset", args.preset] if args.preset else []
    together = f"{args.seeds} seeds"
    contestants = {together: (args.seeds, args.threads), "1 seed": (1, args.threads)}
    if args.device == "cpu" and args.threads > 1:
        contestants["1 seed, 1 thread"] = (1, 1)
    commands = {
        name: [sys.executable, __file__, "--worker", str(seeds), "--threads", str(threads), *settings]
        for name, (seeds, threads) in contestants.items()
    }
    rates = compete(commands, {"training": args.steps}, args.rounds)
    print(table(rates, together))
    if args.out:
        args.out.write_text(
            json.dumps({"settings": {k: str(v) for k, v in vars(args).items()}, "rates": rates}, indent=1)
        )


if __name__ == "__main__":
    main()
