"""What every registered deep agent must do, tried on each of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlopt.errors import ConfigError
from rlopt.registry import AGENTS
from rlopt.testing import CHECKS, Contract, check_agent

OFF_POLICY = {"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "train_freq": 4}
SMALL: dict[str, dict[str, Any]] = {
    "mdpo": {"n_steps": 32, "n_epochs": 2, "value_batch_size": 32},
    "ppo": {"n_steps": 32, "n_epochs": 2, "batch_size": 32},
    "apo": {"n_steps": 32, "n_epochs": 2, "batch_size": 32},
    "off_policy_mdpo": {**OFF_POLICY, "kl_coef": 0.1},
    "deep_loop": {**OFF_POLICY, "n_features": 16, "lazy": True, "min_interval": 20},
    "differential_dqn": OFF_POLICY,
}
SMALL |= {name: {"batch_size": 16, "buffer_size": 500} for name in ("bc", "td3_bc", "awac", "iql", "rebrac")}
SMALL["cql"] = {"batch_size": 16, "buffer_size": 500, "n_actions": 2}
ROUNDS = {"learner_steps": 0, "policy_steps": 32, "discriminator_steps": 2, "discriminator_batch_size": 16}
SMALL |= {"ailboost": {**OFF_POLICY, **ROUNDS}, "dac": {**OFF_POLICY, **ROUNDS}}
SMALL |= dict.fromkeys(("sac", "sqil", "discrete_sqil", "iq_learn", "discrete_iq_learn", "value_dice"), OFF_POLICY)
SMALL["dagger"] = {**OFF_POLICY, "expert": lambda observations: np.zeros((len(observations), 1), np.float32)}
SMALL["gail"] = SMALL["airl"] = {
    **SMALL["mdpo"],
    "batch_size": None,
    "discriminator_steps": 2,
    "discriminator_batch_size": 16,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("agent", sorted(name for name, spec in AGENTS.items() if not spec.loader))
def test_contract(agent: str, check: Callable[[Contract, Path], None], tmp_path: Path) -> None:
    # ValueDICE refuses second derivatives.
    check(Contract(agent, SMALL[agent], "exadam" if agent == "value_dice" else "adahessian"), tmp_path)


def test_an_agent_that_breaks_the_contract_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlopt.agents.mdpo.on_policy import MDPO

    monkeypatch.setattr(MDPO, "train", lambda self: None)
    with pytest.raises(AssertionError, match="left the policy as it was") as caught:
        check_agent("mdpo", **SMALL["mdpo"])
    assert caught.value.__notes__ == ["mdpo failed: learns_predicts_and_is_reproducible"]
    with pytest.raises(ConfigError, match="not a Stable-Baselines3 algorithm"):
        check_agent("loop")
