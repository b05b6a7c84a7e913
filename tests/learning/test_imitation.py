"""SQIL, IQ-Learn, ValueDICE and GAIL learn to go to the origin from ten demonstrations, within a small budget."""

from typing import Any

import numpy as np
import pytest
import torch
from demonstrated import CLASSES, Hold, demonstrations, straight
from reach import vec_env

BUDGETS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "sqil": (1, 2400, {"learning_rate": 1e-3, "batch_size": 64}),
    "iq_learn": (1, 1000, {"actor_learning_rate": 3e-4, "batch_size": 64, "learning_starts": 100}),
    "value_dice": (1, 750, {"actor_learning_rate": 3e-4, "batch_size": 64, "learning_starts": 100}),
    "gail": (
        4,
        15_000,
        {
            "n_steps": 128,
            "learning_rate": 1e-3,
            "gamma": 0.9,
            "discriminator_net_arch": (64, 64),
            "discriminator_steps": 40,
        },
    ),
}
THRESHOLD = -11.0
"""Mean return of 20 episodes. The expert has about -4, an untrained policy about -22."""


def mean_return(act: Any, episodes: int = 20) -> float:
    env, total = Hold(), 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=1000 + episode)
        done = False
        while not done:
            observation, reward, _, done, _ = env.step(act(observation))
            total += reward
    return total / episodes


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_imitates_the_expert(name: str) -> None:
    n_envs, steps, settings = BUDGETS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if name != "gail":
        settings = settings | {"policy_kwargs": {"net_arch": [32, 32]}}
    try:
        shown = demonstrations(150, Hold)
        model = CLASSES[name]("MlpPolicy", vec_env(n_envs, Hold), shown, seed=0, device="cpu", **settings)

        def act(observation: np.ndarray) -> np.ndarray:
            action: np.ndarray = model.predict(observation, deterministic=True)[0]
            return action

        assert mean_return(straight) > -6.0
        assert mean_return(act) < -15.0
        model.learn(steps)
        assert mean_return(act) > THRESHOLD
    finally:
        torch.set_num_threads(threads)
