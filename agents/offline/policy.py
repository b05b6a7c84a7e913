"""The networks of the offline learners as one Stable-Baselines3 policy."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from rlopt.agents.offline.actors import Actor, Kind
from rlopt.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Needs:
    """Which networks a learner has."""

    actor: Kind
    actor_target: bool = False
    n_critics: int = 0
    value: bool = False
    scalars: tuple[str, ...] = ()
    """Names of learned numbers, kept as their logarithms."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers, where ``policy_kwargs`` say nothing."""
    critic_layer_norm: bool = False
    """Whether the critics have layer normalisation, where ``policy_kwargs`` say nothing."""


class OfflinePolicy(BasePolicy):
    """Actor, critics, target networks and value network of an offline learner, with the statistics of its observations.

    Observations are flattened (the parts of a Dict one after the other, in alphabetical order; Discrete ones
    one-hot), shifted and scaled by ``observation_mean`` and ``observation_std``, which are part of the state dict.
    Images, alone or as parts of a Dict, go through the encoder of the actor, Stable-Baselines3's NatureCNN or
    CombinedExtractor, in which only the other parts are shifted and scaled.

    :param needs: which networks there are
    :param net_arch: width of each hidden layer, or a dict of such lists for "pi", "qf" and "vf"
    :param activation_fn: class of the activations
    :param critic_layer_norm: layer normalisation after each hidden layer of the critics (ReBRAC); None leaves it to
        the learner, as with ``net_arch``
    :param actor_layer_norm: the same in the actor
    :param optimizer_class: of actor, critics and value network; steps of others than plain Adam are not compiled.
        Learned numbers keep Adam
    :param optimizer_kwargs: its further arguments
    """

    predicts_in_torch = True
    """So that it can be exported, see :class:`rlopt.export.module.ActingModule`."""
    observation_mean: Tensor
    """(O,), of what is not images."""
    observation_std: Tensor
    """(O,), > 0."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        needs: Needs,
        net_arch: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        critic_layer_norm: bool | None = None,
        actor_layer_norm: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        continuous = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, squash_output=continuous)
        self.optimizer_class = optimizer_class
        self.optimizer_kwargs = dict(optimizer_kwargs or {})
        self.needs, self.activation_fn, self.actor_layer_norm = needs, activation_fn, actor_layer_norm
        self.net_arch = _architectures(needs.net_arch if net_arch is None else net_arch, needs)
        self.critic_layer_norm = needs.critic_layer_norm if critic_layer_norm is None else critic_layer_norm
        encoder, self._numbers = _encoder(observation_space)
        widths = {key: get_flattened_obs_dim(part) for key, part in self._numbers.items()}
        self._widths = dict(sorted(widths.items()))
        size = sum(widths.values())
        self.register_buffer("observation_mean", torch.zeros(size))
        self.register_buffer("observation_std", torch.ones(size))
        size = size if encoder is None else encoder.features_dim
        outputs = spaces.flatdim(action_space)
        heads = 2 * outputs if needs.actor == "squashed" else outputs
        actor_net = self._network(size, heads, "pi", actor_layer_norm)
        choices = action_space.nvec.tolist() if isinstance(action_space, spaces.MultiDiscrete) else ()
        self.actor = Actor(needs.actor, actor_net, outputs, choices, encoder)
        self.actor_target = frozen_copy(self.actor) if needs.actor_target else None
        inputs, values = (size + outputs, 1) if continuous else (size, outputs)
        self.critics = nn.ModuleList(
            self._network(inputs, values, "qf", self.critic_layer_norm) for _ in range(needs.n_critics)
        )
        self.critics_target = frozen_copy(self.critics)
        self.value = self._network(size, 1, "vf", False) if needs.value else None
        self.scalars = nn.ParameterDict({name: torch.zeros(1) for name in needs.scalars})
        trained = {"actor": self.actor, "critics": self.critics, "value": self.value, "scalars": self.scalars}
        for name, module in trained.items():
            if module is not None and any(True for _ in module.parameters()):
                parameters = ordered_parameters(module)
                own: Any = optimizer_class
                options = {"lr": lr_schedule(1), **self.optimizer_kwargs}
                if name == "scalars" and optimizer_class is not torch.optim.Adam:
                    own, options = torch.optim.Adam, {"lr": lr_schedule(1)}
                setattr(self, f"{name}_optimizer", own(parameters, **options))

    def optimizer_of(self, name: str) -> torch.optim.Optimizer:
        """The optimiser of "actor", "critics", "value" or "scalars"."""
        found: torch.optim.Optimizer = vars(self)[f"{name}_optimizer"]
        return found

    def optimizer_names(self) -> list[str]:
        """Attributes that hold the optimisers."""
        return [name for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)]

    def _network(self, inputs: int, outputs: int, part: str, layer_norm: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in self.net_arch[part]:
            layers += [nn.Linear(inputs, width), self.activation_fn()]
            # After the activation, as in ReBRAC's released code.
            layers += [nn.LayerNorm(width)] if layer_norm else []
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    def flat(self, observations: PyTorchObs) -> Any:
        """(B, O) float32, not yet normalised; where there are images, the observations as they are."""
        return observations if self.actor.encoder is not None else self.numbers(observations)

    def numbers(self, observations: PyTorchObs) -> Tensor:
        """(B, O) float32 of what is not images, the parts of a Dict in alphabetical order."""
        given = observations if isinstance(observations, dict) else {"": observations}
        parts = [preprocess_obs(given[key], self._numbers[key], normalize_images=False) for key in self._widths]
        return torch.cat([part.float().flatten(1) for part in parts], dim=1)  # type: ignore[union-attr]

    def normalized(self, observations: Any) -> Any:
        """What the actor takes of :meth:`flat`: (B, O) shifted and scaled, images in [0, 1]."""
        if self.actor.encoder is None:
            return self._scaled(observations)
        if not isinstance(observations, dict):
            return preprocess_obs(observations, self.observation_space)
        prepared: Any = preprocess_obs(observations, self.observation_space)
        if self._widths:
            scaled = self._scaled(self.numbers(observations)).split(list(self._widths.values()), dim=1)
            prepared |= dict(zip(self._widths, scaled, strict=True))
        return prepared

    def _scaled(self, numbers: Tensor) -> Tensor:
        return (numbers - self.observation_mean) / self.observation_std

    def forward(self, observations: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observations, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor(self.normalized(self.flat(observation)), deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,  # the optimisers are not kept in a policy's own file
            "needs": self.needs,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "critic_layer_norm": self.critic_layer_norm,
            "actor_layer_norm": self.actor_layer_norm,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


def _encoder(space: spaces.Space) -> tuple[BaseFeaturesExtractor | None, dict[str, spaces.Space]]:
    """What encodes the images of ``space``, None where there are none; and its other parts by name."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    numbers = {key: part for key, part in parts.items() if not is_image_space(part)}
    if len(numbers) == len(parts):
        return None, numbers
    return (CombinedExtractor(space) if isinstance(space, spaces.Dict) else NatureCNN(space)), numbers


def ordered_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` in the order in which functions of it take them."""
    return module.ordered_parameters() if isinstance(module, Actor) else list(module.parameters())


def frozen_copy(module: M) -> M:
    """A copy that no optimiser trains."""
    return copy.deepcopy(module).requires_grad_(False)


def _architectures(net_arch: Sequence[int] | Mapping[str, Sequence[int]], needs: Needs) -> dict[str, list[int]]:
    if isinstance(net_arch, Mapping):
        unknown = set(net_arch) - {"pi", "qf", "vf"}
        if unknown:
            raise ConfigError(
                f"net_arch has the part {min(unknown)!r}: give lists for pi, qf and vf, or one list for all"
            )
        return {part: list(net_arch.get(part, needs.net_arch)) for part in ("pi", "qf", "vf")}
    return {part: list(net_arch) for part in ("pi", "qf", "vf")}
