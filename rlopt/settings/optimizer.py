"""Which optimiser and which learning rate over the run: settings that every deep agent has. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rlopt.errors import ConfigError, require
from rlopt.settings.fields import OR_SCHEDULE, AgentConfig, Range
from rlopt.settings.schedules import DecayingRate

NetworkName = Literal["mlp", "layer_norm", "simba", "crossq"]
PUBLISHED_WIDTHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mlp": ((256, 256), (256, 256)),
    "layer_norm": ((256, 256), (256, 256)),
    "simba": ((128,), (512, 512)),
    "crossq": ((256, 256), (2048, 2048)),
}
"""Widths of the layers of actor and critics where none are given; of SimBa's residual blocks."""
PUBLISHED_POLICY_DELAY: dict[str, int] = {"crossq": 3}
"""Gradient steps of the critics for one of the actor, where it is not 1."""


OWN = ("optimizer", "optimizer_kwargs", "learning_rate_schedule", "learning_rate_warmup", "learning_rate_floor")
RATES = ("learning_rate", "value_learning_rate", "critic_learning_rate", "actor_learning_rate")
"""Constructor arguments that the schedule applies to, where an agent has them."""

LearningRate = Annotated[float, Range(ge=0, le=1e6), OR_SCHEDULE]
"""A step size; beyond 1e6 steps do not fit into float32 with ordinary gradients."""
Widths = tuple[Annotated[int, Range(ge=1, le=65536)], ...]
"""The widths of hidden layers."""
Activation = Literal["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"]
"""Names in :data:`rlopt.algorithms.resumable.ACTIVATIONS`."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(AgentConfig):
    """The optimiser of the agent's networks. A learned ent_coef and a discriminator keep Adam."""

    optimizer: str = "adam"
    """Name of the networks' optimiser: any of torch.optim, and with rlopt[optim] any of pytorch_optimizer, such as
    adabelief, adamp, diffgrad, adahessian, sgdsai, exadam. Only steps of plain Adam are compiled."""
    optimizer_kwargs: tuple[str, ...] = ()
    """Further arguments of the optimiser, such as weight_decay=0.01 betas=0.9,0.99; default is Stable-Baselines3's."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the networks' learning rates over the run: constant, falling linearly, or falling along half a
    cosine."""
    learning_rate_warmup: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the run in which the rates first rise linearly from 0."""
    learning_rate_floor: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Final value of the schedules linear and cosine, as a share of the rate."""

    def with_optimizer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """``arguments`` of a constructor with these settings in the places that Stable-Baselines3 has for them."""
        arguments = {name: value for name, value in arguments.items() if name not in OWN}
        chosen: dict[str, Any] = {} if self.optimizer == "adam" else {"optimizer_class": self.optimizer}
        if self.optimizer_kwargs:
            chosen["optimizer_kwargs"] = read_arguments(self.optimizer_kwargs)
        if chosen:
            arguments["policy_kwargs"] = {**(arguments.get("policy_kwargs") or {}), **chosen}
        for name in RATES:
            if isinstance(arguments.get(name), float | int):
                arguments[name] = self._over_the_run(float(arguments[name]))
        return arguments

    def _over_the_run(self, rate: float) -> Any:
        shape, warmup, floor = self.learning_rate_schedule, self.learning_rate_warmup, self.learning_rate_floor
        if shape == "constant" and not warmup:
            return rate
        if shape == "linear" and not warmup and not floor:
            from stable_baselines3.common.utils import LinearSchedule  # here, to keep --help free of torch

            return LinearSchedule(rate, 0.0, 1.0)
        return DecayingRate(rate, shape, warmup, floor)


@dataclass(frozen=True, kw_only=True)
class CompiledStepConfig(OptimizerConfig):
    """Settings of the gradient steps of agents that learn from stored transitions."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile each gradient step into one call (a CUDA graph on a GPU); auto compiles runs that are long
    enough to gain from it."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the factors of large matrix products: bf16 rounds them to bfloat16, which is faster on processors
    that support it (CPUs with avx512_bf16 or AMX) and needs compiled gradient steps. Everything else stays float32."""

    @classmethod
    def check_together(cls, settings: Mapping[str, Any]) -> None:
        """Raises :class:`rlopt.errors.ConfigError` for a precision that only compiled gradient steps have."""
        compiled = settings["precision"] == "float32" or settings["compile"] != "off"
        require(compiled, "precision bf16 needs compiled gradient steps: leave out compile off")


def read_arguments(words: tuple[str, ...]) -> dict[str, Any]:
    """``("betas=0.9", "0.99", "fused=no")`` as ``{"betas": (0.9, 0.99), "fused": False}``: a comma splits a value.

    :raises rlopt.errors.ConfigError: the first word has no name, or a name comes twice
    """
    values: dict[str, list[Any]] = {}
    name = ""
    for word in words:
        if "=" in word:
            name, _, word = word.partition("=")
            if not name.isidentifier() or name in values:
                raise ConfigError(f"optimizer_kwargs: {name!r} is given twice or is not a name: give NAME=VALUE ...")
            values[name] = []
        if not name:
            raise ConfigError(f"optimizer_kwargs: {word!r} has no name: give NAME=VALUE ..., such as weight_decay=0.01")
        values[name].append(_read(word))
    return {name: found[0] if len(found) == 1 else tuple(found) for name, found in values.items()}


def _read(word: str) -> bool | int | float | str | None:
    words = {"true": True, "yes": True, "false": False, "no": False, "none": None}
    if word.lower() in words:
        return words[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def check_centring(settings: Mapping[str, Any]) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for centred values that are not discounted."""
    require(
        not settings.get("reward_centring") or settings["gamma"] < 1,
        "reward_centring needs gamma < 1: without a discount take an agent of the average reward, such as apo, "
        "deep_loop or differential_dqn",
    )
