"""What a constructor says to arguments that it does not have."""

from __future__ import annotations

from typing import Any

import pytest
from reach import Reach

import rlopt
from rlopt.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    ("cls", "given", "said"),
    [
        (rlopt.MDPO, {"clip_range": 0.2}, "MDPO has no setting 'clip_range': the divergence"),
        (rlopt.MDPO, {"max_kl": 0.02}, "MDPO has no setting 'max_kl': its name is target_kl"),
        (rlopt.MDPO, {"vf_coef": 0.5}, "MDPO has no setting 'vf_coef': V has a phase of its own, with n_value_epochs"),
        (rlopt.MDPO, {"buffer_size": 10}, "MDPO has no setting 'buffer_size': .*take OffPolicyMDPO"),
        (rlopt.GAIL, {"clip_range": 0.2}, "GAIL has no setting 'clip_range': the divergence"),
        (rlopt.SAC, {"gae_lambda": 0.9}, "SAC has no setting 'gae_lambda': .*on-policy"),
        (rlopt.AILBoost, {"alpha": 0.2}, "AILBoost has no setting 'alpha': its name is ent_coef"),
        (rlopt.IQL, {"lr": 1e-3}, "IQL has no setting 'lr': its name is learning_rate"),
        (rlopt.MDPO, {"net_arch": [8]}, r"MDPO has no setting 'net_arch': .*policy_kwargs=\{'net_arch': ...\}"),
        (rlopt.SAC, {"num_envs": 4}, "SAC has no setting 'num_envs': make the environment with rlopt.make_env"),
        (rlopt.MDPO, {"n_step": 5}, "unknown setting 'n_step': did you mean 'n_steps'?"),
        (
            rlopt.SAC,
            {"policy_kwargs": {"net_archs": [8]}},
            "setting of policy_kwargs 'net_archs': did you mean 'net_arch'",
        ),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_what_there_is(cls: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        cls("MlpPolicy", Reach(), **given)


def test_a_policy_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown policy 'MlpPolcy': did you mean 'MlpPolicy'?"):
        rlopt.SAC("MlpPolcy", Reach())
    with pytest.raises(ConfigError, match=r"the policy is a Reach: give .* first and then the environment, MDPO\("):
        rlopt.MDPO(Reach(), "MlpPolicy")  # type: ignore[arg-type]
