"""Environment steps per second of on-policy training: MDPO compiled and not, Stable-Baselines3's PPO, EnvPool alone.

The contestants train in turn, round after round in one process, so that a machine whose speed drifts slows all alike;
the ratio is taken within each round. PPO runs as its users run it: default settings, eight DummyVecEnv environments.

    python scripts/benchmark_on_policy.py --env HalfCheetah-v5 --rounds 5
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

import rlopt
from rlopt.runs.build import build
from rlopt.settings.presets import resolved_settings


def from_preset(agent: str, preset: str, **changed: Any) -> Any:
    """The agent exactly as ``rlopt train AGENT --preset PRESET`` builds it, with some settings changed."""
    return build(agent, *resolved_settings(agent, changed, preset, "benchmark"))[0]


def mdpo(env_id: str, preset: str, device: str, threads: int, compile: str) -> BaseAlgorithm:
    model: BaseAlgorithm = from_preset("mdpo", preset, env=env_id, device=device, num_threads=threads, compile=compile)
    return model


def ppo(env_id: str, device: str, n_steps: int) -> BaseAlgorithm:
    return sb3.PPO("MlpPolicy", make_vec_env(env_id, n_envs=8), n_steps=n_steps, seed=0, device=device)


def envpool_alone(env_id: str, n_envs: int, steps: int) -> float:
    """Steps per second of our EnvPool environment under random actions."""
    env = rlopt.make_env(env_id, n_envs=n_envs, seed=0, backend="envpool")
    env.reset()
    generator = np.random.default_rng(0)
    actions = generator.uniform(env.action_space.low, env.action_space.high, (64, n_envs, *env.action_space.shape))
    actions = actions.astype(np.float32)
    start = time.perf_counter()
    for step in range(steps // n_envs):
        env.step(actions[step % 64])
    rate = (steps // n_envs) * n_envs / (time.perf_counter() - start)
    env.close()
    return rate


def trained(make: Callable[[], BaseAlgorithm], steps: int) -> float:
    """Steps per second of ``learn`` after one warm-up rollout; set-up and compilation excluded."""
    model = make()
    model.learn(model.n_steps * model.n_envs)  # type: ignore[attr-defined]
    start, before = time.perf_counter(), model.num_timesteps
    model.learn(steps, reset_num_timesteps=False)
    rate = (model.num_timesteps - before) / (time.perf_counter() - start)
    model.get_env().close()  # type: ignore[union-attr]
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--preset", default="mujoco/half_cheetah")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000, help="timed steps of MDPO a round")
    parser.add_argument("--peer-steps", type=int, default=32_768, help="timed steps of PPO a round")
    parser.add_argument("--peer-n-steps", type=int, default=2048, help="rollout of PPO in each of its environments")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    rows: dict[str, list[float]] = {"mdpo": [], "mdpo_eager": [], "sb3_ppo": [], "envpool_alone": []}
    ours = (args.env, args.preset, args.device, args.threads)
    for number in range(args.rounds):
        rows["mdpo"].append(trained(lambda: mdpo(*ours, "on"), args.steps))
        rows["mdpo_eager"].append(trained(lambda: mdpo(*ours, "off"), args.steps))
        rows["sb3_ppo"].append(trained(lambda: ppo(args.env, args.device, args.peer_n_steps), args.peer_steps))
        rows["envpool_alone"].append(envpool_alone(args.env, 64, 100_000))
        print(
            f"round {number + 1}:",
            ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rows.items()),
            flush=True,
        )
    pairs = [("mdpo", "sb3_ppo"), ("mdpo", "envpool_alone"), ("mdpo_eager", "sb3_ppo")]
    ratios = {
        f"{first} / {second}": [one / other for one, other in zip(rows[first], rows[second], strict=True)]
        for first, second in pairs
    }
    print(f"\n{'':24}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in {**rows, **ratios}.items():
        shown = [statistics.median(values), min(values), max(values)]
        print(f"{name:24}" + "".join(f"{value:>10,.0f}" if value > 100 else f"{value:>10.2f}" for value in shown))
    if args.out:
        versions = {
            "torch": torch.__version__,
            "stable_baselines3": sb3.__version__,
            "gymnasium": gymnasium.__version__,
        }
        settings = {name: str(value) for name, value in vars(args).items()}
        args.out.write_text(
            json.dumps({"settings": settings, "versions": versions, "steps_per_second": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
