"""Train a Stable-Baselines3 peer the way its users do, and add its result to a table.

Settings: PPO and sb3-contrib's TRPO as tuned in rl-baselines3-zoo (hyperparams/ppo.yml, trpo.yml, the -v4 entries);
SAC at Stable-Baselines3's defaults. The last policy is evaluated, deterministically, on a fresh environment. A run
that is in the table is not run again, so the script can be stopped and called again.

    python scripts/peers.py --agent sb3_ppo --env HalfCheetah-v5 --seed 0 --total-timesteps 1000000 --out peers.jsonl
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch
from reproduction import Results
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

ZOO_POLICY = {
    "log_std_init": -2.0,
    "ortho_init": False,
    "activation_fn": torch.nn.ReLU,
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
ZOO_PPO: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
    },
    "Hopper-v5": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
    },
    "Walker2d-v5": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.99,
        "learning_rate": 5.05041e-05,
        "ent_coef": 0.000585045,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.95,
        "max_grad_norm": 1.0,
        "vf_coef": 0.871923,
    },
}


MUJOCO_TRPO: dict[str, Any] = {"batch_size": 128, "n_steps": 1024, "cg_max_steps": 25, "n_critic_updates": 20}
ZOO_TRPO: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {**MUJOCO_TRPO, "target_kl": 0.04},
    "Hopper-v5": MUJOCO_TRPO,
    "Walker2d-v5": MUJOCO_TRPO,
}
TRPO_ENVS = 2


def make_peer_env(env_id: str, seed: int, n_envs: int = 1) -> VecEnv:
    """One environment, or more; ours for dm_control ids (Stable-Baselines3 brings none), Gymnasium's for the rest."""
    if env_id.startswith(("dm_control/", "rlopt/")):
        import rlopt

        return rlopt.make_env(env_id, n_envs=n_envs, seed=seed, backend="gymnasium")
    env = DummyVecEnv([lambda: gymnasium.make(env_id)] * n_envs)
    env.seed(seed)
    return env


def build(agent: str, env_id: str, seed: int) -> BaseAlgorithm:
    env: VecEnv = VecMonitor(make_peer_env(env_id, seed, TRPO_ENVS if agent == "sb3_trpo" else 1))
    if agent == "sb3_sac":
        return sb3.SAC("MlpPolicy", env, seed=seed, device="cpu")
    if agent == "sb3_trpo":
        from sb3_contrib import TRPO

        return TRPO("MlpPolicy", VecNormalize(env), seed=seed, device="cpu", **ZOO_TRPO[env_id])
    settings = ZOO_PPO[env_id]
    env = VecNormalize(env, gamma=settings["gamma"])
    return sb3.PPO("MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=ZOO_POLICY, **settings)


def evaluate(model: BaseAlgorithm, env_id: str, seed: int, episodes: int) -> list[float]:
    env: VecEnv = VecMonitor(make_peer_env(env_id, seed + 100_000))
    training_env = model.get_env()
    if isinstance(training_env, VecNormalize):
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = training_env.obs_rms
    returns, _ = evaluate_policy(model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True)
    return [float(value) for value in returns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", choices=["sb3_ppo", "sb3_sac", "sb3_trpo"], required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-timesteps", type=int, required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="table of the runs")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cell = {"agent": args.agent, "env": args.env, "seed": args.seed, "total_timesteps": args.total_timesteps}
    results = Results(args.out, *cell)
    if results.find(**cell):
        return
    model = build(args.agent, args.env, args.seed)
    start = time.perf_counter()
    model.learn(args.total_timesteps)
    wall = time.perf_counter() - start
    returns = evaluate(model, args.env, args.seed, args.episodes)
    result = {
        **cell,
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "training_return": float(np.mean([info["r"] for info in model.ep_info_buffer or []])),
        "wall_seconds": wall,
    }
    versions = {"stable-baselines3": sb3.__version__, "gymnasium": gymnasium.__version__, "torch": torch.__version__}
    results.add(result, {"config": {"agent": args.agent}, "versions": versions})
    print(args.agent, args.env, args.seed, f"{result['mean_return']:.0f}", f"{wall:.0f} s")


if __name__ == "__main__":
    main()
