"""What a constructor says to arguments that it does not have."""

import importlib.util
import warnings
from typing import Any

import pytest
from reach import Reach

import rlopt
from rlopt.errors import ConfigError, SpaceError, UnknownNameError
from rlopt.runs.train import _end_of_rollouts


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


@pytest.mark.parametrize("cls", [rlopt.MDPO, rlopt.SAC])
def test_what_people_try_is_answered_in_one_line(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpaceError, match=r"^MultiInputPolicy takes dictionaries, not Box.*: take MlpPolicy$"):
        cls("MultiInputPolicy", Reach(), device="cpu")
    with pytest.raises(SpaceError, match=r"^CnnPolicy takes images, not Box.*: take MlpPolicy$"):
        cls("CnnPolicy", Reach(), device="cpu")
    with pytest.raises(
        ConfigError, match=r"learning_rate = linear is not a number, or in Python a function .*DecayingRate"
    ):
        cls("MlpPolicy", Reach(), learning_rate="linear")
    model = cls("MlpPolicy", Reach(), device="cpu")
    for steps in ("100", None, float("nan"), -1):
        with pytest.raises(ConfigError, match="is not a number of steps"):
            model.learn(steps)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    with pytest.raises(ConfigError, match="progress_bar needs rich: pip install rich"):
        model.learn(8, progress_bar=True)


@pytest.mark.parametrize(("cls", "name"), [(rlopt.PPO, "batch_size"), (rlopt.MDPO, "value_batch_size")])
def test_minibatches_that_do_not_divide_a_rollout_are_told(cls: Any, name: str) -> None:
    sizes = {"n_steps": 128, "batch_size": 64, "device": "cpu"}
    with pytest.warns(
        UserWarning, match="^" + name + " = 100 does not divide .*128 x 1 = 128 steps: .* of 28$"
    ) as told:
        cls("MlpPolicy", Reach(), **{**sizes, name: 100}).learn(128)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="^" + name + " = 200 is more than .*each gradient step takes them all$"):
        cls("MlpPolicy", Reach(), **{**sizes, name: 200}).learn(128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cls("MlpPolicy", Reach(), **sizes).learn(128)
    assert "ends at step 256, with a whole rollout of 128" in _end_of_rollouts(model, 200, 0)
    assert _end_of_rollouts(model, 256, 128) == ""
