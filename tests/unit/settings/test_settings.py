"""A setting is declared once: the command line and the constructors accept and refuse the same values, in one line."""

import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rlopt
from rlopt.agents.zo_ranksgd.config import STUDY_SETTINGS
from rlopt.cli.flags import parse_training
from rlopt.errors import ConfigError
from rlopt.registry import AGENTS, resolve
from rlopt.settings.fields import Range, coerce, field_types
from rlopt.settings.optimizer import OWN, RATES

OURS = list(AGENTS)
DATA = {"demos", "n_demos", "subsample", "expert", "dataset", "augment", "guide", "n_augmented"}
"""What a run is given in files, and a constructor as an object; n_demos is its n_demonstrations."""
PLACED = {"critic_net_arch", *OWN, "her", "her_goals", "encoder", "policy", *STUDY_SETTINGS}
"""What a constructor has in other arguments: classes in policy_kwargs, replay_buffer_class, a study."""
WORDS = ("auto", "q", "linear", "none of them")
NUMBERS = (0, 1, -1, 2, 0.5, -0.5, 1.5, 1e-9, 10**6, 10**12, float("nan"), float("inf"), -float("inf"))


def parts_of(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    if typing.get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        yield from parts_of(annotation.__origin__)
    elif typing.get_origin(annotation) in (Union, types.UnionType, tuple, list):
        for member in typing.get_args(annotation):
            yield from parts_of(member)


def interesting(annotation: Any) -> list[Any]:
    """Values inside, at and outside of what an annotation declares, and of other types."""
    parts = list(parts_of(annotation))
    numbers = [*NUMBERS]
    for bounds in (part for part in parts if isinstance(part, Range)):
        for bound in (bounds.gt, bounds.ge, bounds.lt, bounds.le):
            if abs(bound) < 1e30:
                numbers += [bound, bound * (1 + 1e-6) + 1e-6, bound * (1 - 1e-6) - 1e-6, int(bound) + 1, int(bound) - 1]
    choices = [choice for part in parts if typing.get_origin(part) is Literal for choice in typing.get_args(part)]
    if any(typing.get_origin(part) in (tuple, list) for part in parts):
        return [[], *([number] for number in numbers), [64, 64], [64, 0], ["q"]]
    return [*numbers, *choices, *WORDS, None, True, False]


def comparable(value: Any, annotation: Any, of_policy: bool) -> bool:
    """Whether ``value`` is the same thing as a flag's text: all of a flag is text, which Python tells apart."""
    kinds = {part for part in parts_of(annotation) if isinstance(part, type)}
    if isinstance(value, list):
        return all(comparable(item, annotation, of_policy) for item in value)
    if value is None:
        choices = {choice for part in parts_of(annotation) for choice in typing.get_args(part)}
        return not of_policy and "none" not in choices and (str not in kinds or types.NoneType in kinds)
    if isinstance(value, float) and int in kinds:
        return not value.is_integer()  # 2.0 is a whole number where it is text, such as 1e6
    if bool in kinds:
        return isinstance(value, bool | None) or value not in (0, 1)
    return not (str in kinds and float not in kinds) or isinstance(value, str)


def words_of(value: Any) -> list[str]:
    """A value as it follows its flag."""
    words = value if isinstance(value, list) else [value]
    return ["none" if word is None else str(word).lower() if isinstance(word, bool) else str(word) for word in words]


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is one of those that an annotation declares."""
    try:
        coerce(words_of(value) if isinstance(value, list) else words_of(value)[0], annotation)
    except ConfigError:
        return False
    return True


Refusal = tuple[type[ConfigError], str] | None
"""Class and line of the error; None where there is none."""


def refusal_of_flags(config: type, given: Mapping[str, Any]) -> Refusal:
    """What the command line says to settings."""
    argv = ["--env", "x"]
    for name, value in given.items():
        flag, texts = f"--{name}".replace("_", "-"), words_of(value)
        argv += [flag, *texts] if isinstance(value, list) else [f"{flag}={texts[0]}"]
    try:
        # A name that is not registered, so that nothing is looked for: no data set, no demonstrations.
        parse_training("any", config, argv)
    except ConfigError as error:
        return type(error), str(error)
    return None


def refusal_of_constructor(config: Any, algorithm: type, given: Mapping[str, Any]) -> Refusal:
    """What the class says to the same settings."""
    named = config().algorithm_kwargs()
    arguments = {name: value for name, value in given.items() if name in named}
    of_policy = {name: value for name, value in given.items() if name not in named}
    if of_policy:
        arguments["policy_kwargs"] = of_policy
    parameters = inspect.signature(algorithm).parameters
    if "_init_setup_model" in parameters:
        arguments["_init_setup_model"] = False
    positional = (
        (None,) if "policy" not in parameters else ("LinearPolicy" if "oracle" in parameters else "MlpPolicy", None)
    )
    try:
        algorithm(*positional, **arguments)
    except ConfigError as error:
        return type(error), str(error)
    return None


def both(agent: str, given: Mapping[str, Any]) -> tuple[Refusal, Refusal]:
    config, algorithm = resolve(AGENTS[agent].config), resolve(AGENTS[agent].algorithm)
    return refusal_of_flags(config, given), refusal_of_constructor(config, algorithm, given)


def shared_settings(agent: str) -> dict[str, tuple[Any, bool]]:
    """The settings that flags and constructor both have: annotation, and whether they are in ``policy_kwargs``."""
    config = resolve(AGENTS[agent].config)
    arguments = config().algorithm_kwargs()
    of_policy = arguments.get("policy_kwargs", {})
    return {
        name: (annotation, name not in arguments)
        for name, annotation in field_types(config).items()
        if name in arguments or name in of_policy
    }


@functools.cache
def values_in_range(agent: str) -> dict[str, list[Any]]:
    """For each shared setting those of :func:`interesting` that are taken, beside fitting others."""
    return {
        name: [
            value
            for value in interesting(annotation)
            if comparable(value, annotation, of_policy) and fits(value, annotation)
        ]
        for name, (annotation, of_policy) in shared_settings(agent).items()
    }


@pytest.mark.parametrize("agent", OURS)
def test_a_constructor_has_every_setting_of_the_flags(agent: str) -> None:
    missing = field_types(resolve(AGENTS[agent].config)).keys() - shared_settings(agent).keys()
    assert missing <= DATA | PLACED


@pytest.mark.parametrize("agent", OURS)
def test_flags_and_constructor_agree_at_every_bound(agent: str) -> None:
    refused = accepted = 0
    shared = shared_settings(agent)
    for name, (annotation, of_policy) in shared.items():
        for value in interesting(annotation):
            if comparable(value, annotation, of_policy):
                flags, constructor = both(agent, {name: value})
                assert flags == constructor, (name, value)
                refused, accepted = refused + (flags is not None), accepted + (flags is None)
    assert refused > len(shared) and accepted >= len(shared)


@pytest.mark.parametrize("agent", OURS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flags_and_constructor_agree_on_any_value(agent: str, data: st.DataObject) -> None:
    name, (annotation, of_policy) = data.draw(
        st.sampled_from(sorted(shared_settings(agent).items(), key=lambda x: x[0]))
    )
    anything = st.one_of(
        st.floats(), st.integers(-(10**30), 10**30), st.text("qwxz", min_size=1, max_size=8), st.none(), st.booleans()
    )
    sequence = any(typing.get_origin(part) in (tuple, list) for part in parts_of(annotation))
    value = data.draw(st.lists(anything, max_size=3) if sequence else anything)
    if comparable(value, annotation, of_policy):
        flags, constructor = both(agent, {name: value})
        assert flags == constructor


@pytest.mark.parametrize("agent", OURS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flags_and_constructor_agree_on_settings_together(agent: str, data: st.DataObject) -> None:
    values = values_in_range(agent)
    chosen = data.draw(st.sets(st.sampled_from(sorted(values)), min_size=min(2, len(values)), max_size=20))
    given = {name: data.draw(st.sampled_from(values[name])) for name in values if name in chosen}
    flags, constructor = both(agent, given)
    assert flags == constructor


@pytest.mark.parametrize("agent", OURS)
def test_constructor_has_the_declared_defaults(agent: str) -> None:
    config, algorithm = resolve(AGENTS[agent].config), resolve(AGENTS[agent].algorithm)
    parameters = inspect.signature(algorithm).parameters
    for name, (_, of_policy) in shared_settings(agent).items():
        if not of_policy:
            wanted = config().algorithm_kwargs() if name in RATES else vars(config())
            assert parameters[name].default == wanted[name], name


@pytest.mark.parametrize(
    ("agent", "given", "line"),
    [
        ("mdpo", {"learning_rate": -1}, "learning_rate = -1.0 is outside [0, 1e+06]"),
        ("sac", {"tau": -1}, "tau = -1.0 is outside [0, 1]"),
        ("iql", {"expectile": 0.99995}, "expectile = 0.99995 is outside (0, 0.9999]"),
        ("cql", {"n_actions": 5000}, "n_actions = 5000 is outside [1, 1000]"),
        ("td3_bc", {"learning_rate": 1e7}, "learning_rate = 10000000.0 is outside [0, 1e+06]"),
        ("bc", {"reward_scale": 0}, "reward_scale is 0: every reward would be the same"),
        ("rebrac", {"net_arch": [0]}, "net_arch = 0 is outside [1, 65536]"),
        ("linear_loop", {"delta": 1}, "delta = 1.0 is outside (0, 1)"),
        (
            "off_policy_mdpo",
            {"analytic_kl": True, "tsallis_q": 1.5},
            "analytic_kl needs tsallis_q=1 and no log_density_floor: it is the closed form of the KL divergence",
        ),
        (
            "deep_loop",
            {"min_interval": 20, "max_interval": 10},
            "min_interval 20 is above max_interval 10: exchange them",
        ),
        ("ailboost", {"reward_form": "gail"}, "reward_form gail needs divergence js, not reverse_kl: use airl"),
        (
            "dac",
            {"gamma": 1},
            "gamma is 1 and the absorbing state has no value then: give gamma < 1 or absorbing=False",
        ),
        (
            "sqil",
            {"gamma": 1},
            "with gamma=1 an absorbing state has no finite value: give absorbing=False or a smaller gamma",
        ),
        (
            "iq_learn",
            {"absorbing": True, "regularize_policy": False},
            "absorbing needs regularize_policy, because a penalty on the expert's rows alone does not bound the value "
            "of the policy's ends: use the default of one of the two",
        ),
        ("zo_ranksgd", {"k": 11}, "k = 11 is more than m = 10: rank at most all candidates, k = 10"),
    ],
)
def test_what_flags_and_constructor_say(agent: str, given: dict[str, Any], line: str) -> None:
    assert both(agent, given) == ((ConfigError, line), (ConfigError, line))


@pytest.mark.parametrize("agent", ["mdpo", "sac", "off_policy_mdpo", "iql", "value_dice"])
def test_a_step_size_of_0_is_taken(agent: str) -> None:
    assert both(agent, {"learning_rate": 0}) == (None, None)


def test_settings_of_networks_may_be_classes_or_one_for_each_network() -> None:
    policy_kwargs = {
        "net_arch": {"pi": [8], "qf": []},
        "activation_fn": torch.nn.Tanh,
        "optimizer_kwargs": {"weight_decay": 0.1},
    }
    model = rlopt.IQL("MlpPolicy", None, policy_kwargs=policy_kwargs, _init_setup_model=False)
    assert model.policy_kwargs["activation_fn"] is torch.nn.Tanh
    with pytest.raises(ConfigError, match=r"^net_arch = -1 is outside \[1, 65536\]$"):
        rlopt.IQL("MlpPolicy", None, policy_kwargs={"net_arch": {"pi": [8], "qf": [-1]}}, _init_setup_model=False)
