"""Simulation on a device: environment steps per second of the warp backend by number of worlds, beside EnvPool's.

    python scripts/benchmark_warp.py --device cuda
    python scripts/benchmark_warp.py --device cuda --env dm_control/walker-walk --train mdpo --target 900

Actions are drawn beforehand, on the device for warp and as arrays for EnvPool; the first steps, which compile and
capture, are not timed. ``--train`` trains the agent with its preset ``fast/walker-walk`` until its last 100 episodes
have a mean return of ``--target``, and prints how long that took, compilation and everything else included.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

import rlopt
from rlopt.registry import agent_spec, resolve
from rlopt.runs.build import build
from rlopt.settings.fields import from_mapping
from rlopt.settings.presets import load_preset, split_settings
from rlopt.settings.run import RunConfig

WARM_UP = 3


def warp_rate(env_id: str, worlds: int, device: str, steps: int) -> float:
    """Environment steps per second, of all worlds together."""
    env: Any = rlopt.make_env(env_id, n_envs=worlds, backend="warp", device=device)
    env.reset_tensors()
    low, high = (torch.as_tensor(bound, device=env.device) for bound in (env.action_space.low, env.action_space.high))
    actions = low + (high - low) * torch.rand(steps + WARM_UP, worlds, *low.shape, device=env.device)
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            begin = _now(env.device)
        env.step_tensors(actions[step])
    return worlds * steps / (_now(env.device) - begin)


def pool_rate(env_id: str, worlds: int, steps: int) -> float:
    """The same of EnvPool, on all cores."""
    env = rlopt.make_env(env_id, n_envs=worlds, backend="envpool")
    space, random = env.action_space, np.random.default_rng(0)
    env.reset()
    actions = random.uniform(space.low, space.high, (steps + WARM_UP, worlds, *space.shape)).astype(np.float32)
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            begin = time.perf_counter()
        env.step(actions[step])
    rate = worlds * steps / (time.perf_counter() - begin)
    env.close()
    return rate


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class UntilTarget(BaseCallback):
    """Stops when the last 100 episodes have a mean return of ``target``."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target, self.best = target, -np.inf

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        if episodes:
            self.best = max(self.best, float(np.mean([episode["r"] for episode in episodes])))
        return self.best < self.target


def training(args: argparse.Namespace) -> str:
    """Trains until the target, or to the end of the preset's steps."""
    begin = time.perf_counter()
    config_class = resolve(agent_spec(args.train).config)
    values = {**load_preset(args.train, "fast/walker-walk"), "env": args.env, "device": args.device, "backend": "warp"}
    values |= {"n_envs": args.worlds[0]} if args.worlds else {}
    run_values, agent_values = split_settings(values, config_class, "fast/walker-walk")
    run = from_mapping(RunConfig, run_values, "fast/walker-walk")
    model, _ = build(args.train, run, from_mapping(config_class, agent_values, "fast/walker-walk"))
    callback = UntilTarget(args.target)
    model.learn(args.train_steps or run.total_timesteps, callback)
    reached = "reached" if callback.best >= args.target else f"not reached (best {callback.best:.0f})"
    seconds = time.perf_counter() - begin
    return f"{args.train} on {args.env}: {args.target:g} {reached} after {model.num_timesteps:,} steps, {seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="dm_control/cheetah-run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worlds", type=int, nargs="+", help="default 64 512 4096, and for training the preset's")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of every world")
    parser.add_argument("--train", choices=["mdpo", "ppo", "sac"], help="train instead")
    parser.add_argument("--train-steps", type=int, help="default is the preset's")
    parser.add_argument("--target", type=float, default=900.0)
    args = parser.parse_args()
    if args.train:
        print(training(args))
        return
    print(f"| {args.env}, steps/s | warp on {args.device} | EnvPool |\n|---|---|---|")
    for worlds in args.worlds or [64, 512, 4096]:
        pool = pool_rate(args.env, worlds, min(args.steps, max(20_000 // worlds, 1)))
        print(
            f"| {worlds:,} worlds | {warp_rate(args.env, worlds, args.device, args.steps):,.0f} | {pool:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
