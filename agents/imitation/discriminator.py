"""The discriminator's network and what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rlopt.errors import unknown_name
from rlopt.nn.stacked import mlp, mlp_layers
from rlopt.validation import check_number

InputKind = Literal["state_action", "state", "state_next_state"]
OutputKind = Literal["tanh", "clip", "none"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}


class Discriminator(nn.Module):
    """D (B, 1) from inputs (B, I): a multi-layer perceptron.

    :param n_inputs: I, see :func:`input_size`
    :param net_arch: hidden units of each layer
    :param activation: relu, tanh, elu or silu
    :param output: how the last layer's z becomes D, with c = ``bound``: "tanh" is c tanh(z / c), "clip" is z cut to
        [-c, c], beyond which it has no gradient, "none" is z. With the reverse KL a bound c bounds the density ratio to
        [exp(-c), exp(c)], and so the reward
    :param bound: c > 0; AILBoost's is 1
    :raises rlopt.errors.ConfigError: a setting is unknown or outside its range
    """

    def __init__(
        self,
        n_inputs: int,
        net_arch: Sequence[int] = (64, 64),
        activation: str = "relu",
        output: OutputKind = "tanh",
        bound: float = 1.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", str(activation), ACTIVATIONS)
        if output not in get_args(OutputKind):
            raise unknown_name("discriminator output", str(output), get_args(OutputKind))
        check_number("bound", bound, 0, float("inf"), closed=False, whole=False)
        for size in (n_inputs, *net_arch):
            check_number("size of a discriminator's layer", size, 1, float("inf"), closed=True, whole=True)
        modules: list[nn.Module] = []
        for before, after in zip((n_inputs, *net_arch), net_arch, strict=False):
            modules += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.network = nn.Sequential(*modules, nn.Linear((n_inputs, *net_arch)[-1], 1))
        self.n_inputs, self.output, self.bound = n_inputs, output, bound
        layers = mlp_layers(self.network)
        assert layers is not None
        self._layers = layers

    def forward(self, inputs: Tensor) -> Tensor:
        """D (B, 1) of inputs (B, I)."""
        return self.outputs(list(self.network.parameters()), inputs)

    def outputs(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """D (B, 1) of inputs (B, I) with other ``parameters``, in the order of ``network.parameters()``."""
        z = mlp(self._layers, parameters, inputs)
        if self.output == "tanh":
            return self.bound * torch.tanh(z / self.bound)
        return z.clamp(-self.bound, self.bound) if self.output == "clip" else z


def input_size(observation_size: int, action_size: int, kind: InputKind, absorbing: bool = False) -> int:
    """I, the columns of :func:`discriminator_inputs`, from the numbers in one observation and one action."""
    _check_kind(kind)
    beside = {"state_action": action_size, "state": 0, "state_next_state": observation_size}
    return observation_size + beside[kind] + int(absorbing)


def discriminator_inputs(
    observations: Tensor,
    actions: Tensor,
    next_observations: Tensor,
    kind: InputKind,
    absorbing: Tensor | None = None,
) -> Tensor:
    """What D sees of transitions: (B, I) float32, flat.

    :param observations: (B, ...), as ``next_observations``
    :param actions: (B, ...), not read by "state" and "state_next_state"
    :param kind: which parts stand side by side
    :param absorbing: (B, 1), 1 or True where the row is of the absorbing state that follows a true terminal (DAC, arXiv
        1809.02925, section 4.2). It becomes the last column, and the others are 0 there, whatever the row holds. None
        where episodes do not terminate: there is no such column then
    """
    _check_kind(kind)
    beside = {"state_action": [actions], "state": [], "state_next_state": [next_observations]}[kind]
    inputs = torch.cat([part.float().flatten(1) for part in (observations, *beside)], dim=1)
    if absorbing is None:
        return inputs
    if absorbing.shape != (len(inputs), 1):
        raise ValueError(f"expected absorbing of shape ({len(inputs)}, 1), got {tuple(absorbing.shape)}")
    indicator = absorbing.float()
    return torch.cat([torch.where(indicator > 0, torch.zeros_like(inputs), inputs), indicator], dim=1)


def absorbing_input(n_inputs: int, device: torch.device | str = "cpu") -> Tensor:
    """What D sees of the absorbing state and its action 0: (1, I), zeros and a last column of 1."""
    row = torch.zeros(1, n_inputs, device=device)
    row[0, -1] = 1.0
    return row


def _check_kind(kind: str) -> None:
    if kind not in get_args(InputKind):
        raise unknown_name("discriminator input", str(kind), get_args(InputKind))
