"""DeepLOOP learns: a task whose best reward is 0 at every step."""

from typing import Any

import pytest

import rlopt


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"lazy": True}, {"bonus": False}], ids=["whole", "rvi_sac"])
def test_learns_to_hit_a_target(settings: dict[str, Any]) -> None:
    env = rlopt.make_env("rlopt/RandomTarget-v0", seed=0)
    model = rlopt.DeepLOOP(
        "MlpPolicy",
        env,
        learning_rate=3e-3,
        learning_starts=100,
        batch_size=64,
        buffer_size=5000,
        min_interval=100,
        max_interval=300,
        beta=1.0,
        policy_kwargs={"net_arch": [32]},
        seed=0,
        device="cpu",
        compile="off",
        **settings,
    ).learn(1500)
    mean = rlopt.evaluate(model, "rlopt/RandomTarget-v0", 20, seed=1).mean
    # Ten steps of |action - target|: 5 with the action 0 in the middle, 6.7 with uniform actions.
    assert mean > -2.0, mean
