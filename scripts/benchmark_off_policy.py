"""Off-policy speed: ours, Stable-Baselines3's SAC and, from an interpreter that has it, SBX's (JAX), in one run.

Two numbers each: gradient steps per second on a filled replay buffer, one call of ``train`` a gradient step, and
environment steps per second of whole training at one gradient step an environment step. Each contestant lives in a
process of its own; they work in turn, round after round, so that a machine whose speed drifts slows all alike, and
ratios are taken within a round. Networks 256-256, batches of 256, the peers as their users run them.

    python scripts/benchmark_off_policy.py                                  # this machine's CPU
    python scripts/benchmark_off_policy.py --sbx-python ../sbx/bin/python   # with SBX, installed in another environment
    python scripts/benchmark_off_policy.py --device cuda --updates 2000 --steps 5000 --whole dm_control/cheetah-run

bfloat16 is left out where it cannot be compiled. ``--whole ENV`` also trains ours for ``--whole-steps`` (1M)
environment steps and prints how long it took.
"""

import argparse
import sys
import time
from typing import Any

from contestants import compete, race_parser, serve, table, worker_command, write_result

WARM_UP = 1_000
"""Environment steps of random actions that fill the buffer before anything is timed."""
CONTESTANTS = {
    "rlopt": "SAC",
    "rlopt_mdpo": "off-policy MDPO: one more pass of the old policy",
    "rlopt_eager": "SAC, not compiled",
    "rlopt_bf16": "SAC, precision bf16",
    "sb3": "Stable-Baselines3's SAC",
    "sbx": "SBX's SAC",
}


def build(name: str, env_id: str, device: str) -> Any:
    """A contestant's model, with its defaults: 256-256, batch 256, one gradient step an environment step."""
    settings: dict[str, Any] = {"seed": 0, "learning_starts": WARM_UP, "buffer_size": 200_000, "batch_size": 256}
    if name == "sbx":
        import sbx

        return sbx.SAC("MlpPolicy", env_id, **settings)
    if name == "sb3":
        import stable_baselines3 as sb3

        return sb3.SAC("MlpPolicy", make_env(env_id), device=device, **settings)
    import rlopt

    settings["compile"] = "off" if name == "rlopt_eager" else "on"
    if name == "rlopt_bf16":
        settings["precision"] = "bf16"
    if name == "rlopt_mdpo":
        return rlopt.OffPolicyMDPO("MlpPolicy", make_env(env_id), device=device, kl_coef=0.1, **settings)
    return rlopt.SAC("MlpPolicy", make_env(env_id), device=device, **settings)


def make_env(env_id: str) -> Any:
    """Ours for dm_control ids, which Gymnasium does not know; Gymnasium's own for the rest."""
    if not env_id.startswith("dm_control/"):
        return env_id
    import rlopt

    return rlopt.make_env(env_id, n_envs=1, seed=0, backend="gymnasium")


def work(name: str, env_id: str, device: str, threads: int) -> None:
    """Serves one contestant."""
    if name != "sbx":
        import torch

        torch.set_num_threads(threads)
    model = build(name, env_id, device)
    model.learn(WARM_UP)
    for steps in (5, 5):  # compilation, and what is made at the first call
        model.learn(steps, reset_num_timesteps=False)

    def updates(count: int) -> int:
        for _ in range(count):
            model.train(gradient_steps=1, batch_size=256)
        wait_for_device(model, name)
        return count

    def training(count: int) -> int:
        model.learn(count, reset_num_timesteps=False)
        wait_for_device(model, name)
        return count

    serve({"updates": updates, "training": training})


def wait_for_device(model: Any, name: str) -> None:
    if name == "sbx":
        import jax

        jax.block_until_ready(model.policy.qf_state.params)
    elif model.device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def rounds_products(device: str) -> bool:
    import torch

    from rlopt.optim.compiled_step import rounding_found

    return rounding_found(torch.device(device))


def whole_run(args: argparse.Namespace) -> float:
    """Seconds of one long training of ours, compilation and everything else included."""
    import rlopt

    start = time.perf_counter()
    env = rlopt.make_env(args.whole, n_envs=1, seed=0, backend="gymnasium")
    model = rlopt.OffPolicyMDPO("MlpPolicy", env, seed=0, device=args.device, kl_coef=0.1, learning_starts=WARM_UP)
    model.learn(args.whole_steps)
    return time.perf_counter() - start


def main() -> None:
    parser = race_parser(__doc__, CONTESTANTS)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--updates", type=int, default=300, help="gradient steps a round")
    parser.add_argument("--steps", type=int, default=300, help="environment steps of whole training a round")
    parser.add_argument("--sbx-python", help="interpreter of an environment with sbx-rl; left out without")
    parser.add_argument("--whole", help="environment for one long training of ours; --rounds 0 for that alone")
    parser.add_argument("--whole-steps", type=int, default=1_000_000)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.env, args.device, args.threads)
        return

    pythons = {name: args.sbx_python if name == "sbx" else sys.executable for name in CONTESTANTS}
    if not rounds_products(args.device):
        del pythons["rlopt_bf16"]
    commands = {name: worker_command(name, python=python) for name, python in pythons.items() if python}
    rates = compete(commands, {"updates": args.updates, "training": args.steps}, args.rounds)
    if args.rounds:
        print(table(rates, "rlopt"))
    result: dict[str, Any] = {"rates": rates}
    if args.whole:
        result["whole_seconds"] = whole_run(args)
        print(f"{args.whole_steps:,} steps of {args.whole} in {result['whole_seconds']:.0f} s")
    write_result(args, **result)


if __name__ == "__main__":
    main()
