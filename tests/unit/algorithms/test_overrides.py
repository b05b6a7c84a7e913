"""Losses of a user's own: misspelt ones are told, and those that take or return something else are refused."""

import warnings
from typing import Any

import pytest
import torch
from gymnasium import spaces

import rlopt
from rlopt.agents.mdpo.losses import policy_loss
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.errors import ConfigError
from rlopt.optim.descent import loss_and_further


def own(*args: Any, **numbers: Any) -> Any:
    return policy_loss(*args, **numbers)


@pytest.mark.parametrize(
    ("agent", "name", "meant"),
    [
        (rlopt.MDPO, "polcy_loss", "did you mean 'policy_loss'"),
        (rlopt.PPO, "policy_loss", "its losses are loss"),
        (rlopt.SAC, "critic_loss", "did you mean 'critic_objective'"),
        (rlopt.TD3BC, "actor_objectiv", "did you mean 'actor_objective'"),
        (rlopt.OffPolicyMDPO, "gradient_steps", "did you mean 'gradient_step'"),
    ],
)
def test_a_method_that_overrides_nothing_is_told(agent: type, name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=f"Mine.{name} overrides nothing, .*{meant}"):
        type("Mine", (agent,), {name: staticmethod(own), "__module__": __name__})


def test_methods_of_ones_own_and_overriding_ones_are_let_be() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Mine(rlopt.MDPO):
            policy_loss = staticmethod(own)

            def scaled_loss(self) -> None: ...

            def my_helper(self) -> None: ...

        assert Mine.policy_loss is own


def test_a_loss_that_cannot_take_its_arguments_is_refused_with_the_class() -> None:
    def short(log_prob: Any) -> Any: ...

    def in_full(
        log_prob: Any, old: Any, advantages: Any, distance: Any, entropy: Any, *, step_size: Any, ent_coef: Any
    ) -> Any: ...

    with pytest.raises(ConfigError, match=r"called as policy_loss\(log_prob, .*, step_size=\.\.\., ent_coef=\.\.\.\)"):
        type("Mine", (rlopt.MDPO,), {"policy_loss": staticmethod(short), "__module__": __name__})
    with pytest.raises(ConfigError, match=r"write policy_loss = staticmethod"):
        type("Mine", (rlopt.MDPO,), {"policy_loss": in_full, "__module__": __name__})


def test_a_loss_must_come_with_values_to_log() -> None:
    class Mine(rlopt.MDPO):
        @staticmethod
        def policy_loss(*args: Any, **numbers: Any) -> Any:  # type: ignore[override]
            return policy_loss(*args, **numbers)[0]

    env = SpacesOnlyVecEnv(1, spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    model = Mine("MlpPolicy", env, n_steps=4, device="cpu", compile="off", policy_kwargs={"net_arch": [2]})
    with pytest.raises(ConfigError, match=r"policy loss must return \(loss, dict of values to log\).* returned Tensor"):
        model.train()
    one, info = torch.zeros(()), {"x": torch.zeros(())}
    assert loss_and_further("critic", (one, info)) == (one, info)
    for wrong in (None, (one,), (one, None), (torch.zeros(3), info), (1.0, info), (one, {"x": 1.0})):
        with pytest.raises(ConfigError, match="critic loss"):
            loss_and_further("critic", wrong)
