"""Off-policy MDPO learns Pendulum-v1 within a small budget."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlopt.agents.mdpo.off_policy import OffPolicyMDPO

THRESHOLD = -400.0
"""Mean return of 10 episodes. Random actions score about -1200 on average, hanging still about -1400 and a solved
task -150 on average."""


def mean_return(model: OffPolicyMDPO, episodes: int = 10) -> float:
    env = gym.make("Pendulum-v1")
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=1000 + episode)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"kl_coef": 0.1}, {"kl_coef": 0.1, "ent_coef": 0.2, "value_network": True, "tsallis_q": 1.5}],
    ids=["default", "value-network-tsallis"],
)
def test_learns_pendulum(options: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = OffPolicyMDPO(
            "MlpPolicy",
            "Pendulum-v1",
            learning_rate=1e-3,
            batch_size=128,
            learning_starts=500,
            old_policy_period=250,
            policy_kwargs={"net_arch": [64, 64]},
            seed=0,
            device="cpu",
            **options,
        )
        assert mean_return(model) < -900.0
        model.learn(5000)
    finally:
        torch.set_num_threads(threads)
    assert mean_return(model) > THRESHOLD
