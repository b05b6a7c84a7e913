"""The discriminator's network and its inputs."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

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
        modules: list[nn.Module] = []
        for before, after in zip((n_inputs, *net_arch), net_arch, strict=False):
            modules += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.network = nn.Sequential(*modules, nn.Linear((n_inputs, *net_arch)[-1], 1))
        self.n_inputs, self.output, self.bound = n_inputs, output, bound

    def forward(self, inputs: Tensor) -> Tensor:
        """D (B, 1) of inputs (B, I)."""
        z: Tensor = self.network(inputs)
        if self.output == "tanh":
            return self.bound * torch.tanh(z / self.bound)
        return z.clamp(-self.bound, self.bound) if self.output == "clip" else z


def input_size(observation_size: int, action_size: int, kind: InputKind) -> int:
    """I, the columns of :func:`discriminator_inputs`, from the numbers in one observation and one action."""
    beside = {"state_action": action_size, "state": 0, "state_next_state": observation_size}
    return observation_size + beside[kind]


def discriminator_inputs(observations: Tensor, actions: Tensor, next_observations: Tensor, kind: InputKind) -> Tensor:
    """What D sees of transitions: (B, I) float32, flat.

    :param observations: (B, ...), as ``next_observations``
    :param actions: (B, ...), not read by "state" and "state_next_state"
    :param kind: which parts stand side by side
    """
    beside = {"state_action": [actions], "state": [], "state_next_state": [next_observations]}[kind]
    return torch.cat([part.float().flatten(1) for part in (observations, *beside)], dim=1)
