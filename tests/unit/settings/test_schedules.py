"""Learning-rate schedules against their closed forms, and the way from settings into constructors."""

import math

import pytest
from stable_baselines3.common.utils import LinearSchedule

from rlopt.agents.imitation.config import IQLearnConfig
from rlopt.agents.mdpo.config import MDPOConfig, OffPolicyMDPOConfig
from rlopt.agents.offline.config import CQLConfig
from rlopt.checkpoint.describe import decode_setting, encode_setting
from rlopt.errors import ConfigError
from rlopt.settings.fields import from_mapping
from rlopt.settings.optimizer import read_arguments
from rlopt.settings.schedules import DecayingRate


def test_cosine_and_line_pass_through_hand_computed_points() -> None:
    cosine = DecayingRate(2.0, "cosine")
    assert [cosine(p) for p in (1.0, 0.5, 0.0)] == pytest.approx([2.0, 1.0, 0.0])
    assert cosine(0.75) == pytest.approx(1 + math.sqrt(0.5))
    line = DecayingRate(2.0, "linear", floor=0.5)
    assert [line(p) for p in (1.0, 0.5, 0.0)] == pytest.approx([2.0, 1.5, 1.0])
    assert DecayingRate(2.0, "linear")(0.3) == pytest.approx(LinearSchedule(2.0, 0.0, 1.0)(0.3))


def test_warmup_rises_to_the_rate_and_the_decay_has_the_rest_of_the_run() -> None:
    rate = DecayingRate(1.0, "linear", warmup=0.2)
    assert [rate(p) for p in (1.0, 0.9, 0.8, 0.4, 0.0)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
    constant = DecayingRate(1.0, "constant", warmup=0.5)
    assert [constant(p) for p in (0.75, 0.5, 0.0)] == pytest.approx([0.5, 1.0, 1.0])
    assert rate(-0.1) == pytest.approx(0.0), "a run that goes on past its end"


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"floor": 1.5}, {"value": -1.0}, {"value": math.inf}])
def test_schedules_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give a finite value"):
        DecayingRate(**{"value": 1.0, **wrong})
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        DecayingRate(1.0, "cosin")


def test_a_schedule_survives_a_checkpoint_without_pickle() -> None:
    rate = DecayingRate(3e-4, "cosine", 0.1, 0.05)
    assert decode_setting(encode_setting("learning_rate", rate)) == rate


def test_settings_reach_every_learning_rate_but_the_discriminators() -> None:
    falling = {"learning_rate_schedule": "linear", "learning_rate_floor": 0.0}
    config = MDPOConfig(learning_rate=3e-4, value_learning_rate=1e-3, **falling)
    rates = [config.algorithm_kwargs()[name] for name in ("learning_rate", "value_learning_rate")]
    assert [rate(0.5) for rate in rates] == pytest.approx([1.5e-4, 5e-4])
    wavy = {"learning_rate_schedule": "cosine", "learning_rate_warmup": 0.1, "learning_rate_floor": 0.2}
    cql = CQLConfig(**wavy).algorithm_kwargs()
    assert cql["critic_learning_rate"] == DecayingRate(3e-4, "cosine", 0.1, 0.2)
    assert IQLearnConfig(**wavy).algorithm_kwargs()["actor_learning_rate"] == DecayingRate(3e-5, "cosine", 0.1, 0.2)
    assert OffPolicyMDPOConfig().algorithm_kwargs()["learning_rate"] == 3e-4, "no schedule leaves the number"


def test_optimizer_arguments_are_read_from_words() -> None:
    words = ("betas=0.9", "0.99", "weight_decay=1e-2", "amsgrad=true", "mode=fast", "k=3", "x=none")
    assert read_arguments(words) == {
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
        "amsgrad": True,
        "mode": "fast",
        "k": 3,
        "x": None,
    }
    for wrong in (("0.9",), ("a=1", "a=2"), ("=1",), ("a b=1",)):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            read_arguments(wrong)


def test_a_preset_may_name_optimizer_and_arguments() -> None:
    values = {"optimizer": "sgd", "optimizer_kwargs": "momentum=0.9 nesterov=true", "learning_rate_schedule": "cosine"}
    config = from_mapping(OffPolicyMDPOConfig, values, "preset x")
    policy = config.algorithm_kwargs()["policy_kwargs"]
    assert policy["optimizer_class"] == "sgd" and policy["optimizer_kwargs"] == {"momentum": 0.9, "nesterov": True}
    assert "optimizer_class" not in OffPolicyMDPOConfig().algorithm_kwargs()["policy_kwargs"]
    with pytest.raises(ConfigError, match="learning_rate_warmup"):
        from_mapping(OffPolicyMDPOConfig, {"learning_rate_warmup": 1.0}, "preset x")
