"""The four kinds of actor, each a network and functions of its parameters.

Letters: B batch, O observation numbers, A action dimensions. Continuous actions are scaled to [-1, 1].
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rlopt.agents.sac.losses import gaussian_log_density, joint_log_prob, sample_squashed_gaussian
from rlopt.nn.stacked import Layer, mlp, mlp_layers

Kind = Literal["deterministic", "gaussian", "squashed", "categorical"]
"""deterministic: tanh(f(s)). gaussian: N(tanh(f(s)), std) with one std for all states. squashed: tanh of a Gaussian
whose mean and std both depend on the state (SAC's). categorical: a softmax over Discrete actions, or one for each
choice of MultiDiscrete ones."""

LOG_STD_RANGE: dict[str, tuple[float, float]] = {"gaussian": (-5.0, 2.0), "squashed": (-20.0, 2.0)}
"""Smallest and largest log standard deviation. IQL's released code has (-5, 2), SAC's (-20, 2)."""


class Sample(NamedTuple):
    """One action per state with its log-density."""

    actions: Tensor
    """(B, A)."""
    log_prob: Tensor
    """(B, 1), in nats."""


class ActorFunction:
    """An actor as a function of its parameters, so that they can be differentiated, stacked and compiled.

    :param network: a Sequential that maps (B, O) to (B, A), or (B, 2A) for "squashed", without a last activation
    :param encoder: what makes (B, O) of observations that hold images; its parameters come first
    :param choices: for "categorical" actions of several choices at a time, MultiDiscrete, how many each is among;
        actions are then (B, k) and not (B,)
    """

    def __init__(
        self, kind: Kind, network: nn.Sequential, choices: Sequence[int] = (), encoder: nn.Module | None = None
    ) -> None:
        layers = mlp_layers(network)
        assert layers is not None
        self.kind, self.choices, self.encoder = kind, list(choices), encoder
        self._encoded = [] if encoder is None else [name for name, _ in encoder.named_parameters()]
        self.layers: list[Layer] = layers

    def outputs(self, parameters: Sequence[Tensor], observations: Any) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each (B, A); before tanh for "squashed", logits (B, n) for "categorical".

        The second is zero for the kinds that have no deviation.
        """
        if self.encoder is not None:
            own = dict(zip(self._encoded, parameters, strict=False))
            observations = functional_call(self.encoder, own, (observations,))
            parameters = parameters[len(own) :]
        if self.kind == "gaussian":
            mean = mlp(self.layers, parameters[:-1], observations).tanh()
            return mean, parameters[-1].clamp(*LOG_STD_RANGE["gaussian"]).expand_as(mean)
        out = mlp(self.layers, parameters, observations)
        if self.kind == "squashed":
            mean, log_std = out.chunk(2, dim=1)
            return mean, log_std.clamp(*LOG_STD_RANGE["squashed"])
        out = out.tanh() if self.kind == "deterministic" else out
        return out, torch.zeros_like(out)

    def mean_action(self, parameters: Sequence[Tensor], observations: Any) -> Tensor:
        """The most likely action, (B, A) in [-1, 1], or (B,) int64."""
        mean, _ = self.outputs(parameters, observations)
        if self.kind == "categorical":
            return self.each_choice(mean, lambda logits: logits.argmax(dim=1))
        return mean.tanh() if self.kind == "squashed" else mean

    def sample(self, parameters: Sequence[Tensor], observations: Any, noise: Tensor) -> Sample:
        """A reparametrised action from ``noise`` (B, A) standard normal; not for "categorical".

        The log-density of a "gaussian" is that before its action is cut to [-1, 1]; a deterministic one has 0.
        """
        mean, log_std = self.outputs(parameters, observations)
        if self.kind == "squashed":
            drawn = sample_squashed_gaussian(mean, log_std, noise)
            return Sample(drawn.actions, joint_log_prob(drawn.log_density, drawn.log_jacobian))
        if self.kind == "deterministic":
            return Sample(mean, torch.zeros_like(mean[:, :1]))
        std = log_std.exp()
        actions = mean + std * noise
        log_prob = gaussian_log_density(actions, mean, std).sum(dim=1, keepdim=True)
        return Sample(actions.clamp(-1, 1), log_prob)

    def log_prob(self, parameters: Sequence[Tensor], observations: Any, actions: Tensor) -> Tensor:
        """ln pi(a|s) of given actions, (B, 1): (B, A) for "gaussian", (B,) or (B, k) int64 for "categorical"."""
        mean, log_std = self.outputs(parameters, observations)
        if self.kind == "categorical":
            parts, chosen = mean.split(self.choices or mean.shape[1], dim=1), actions.reshape(len(actions), -1)
            found = [F.log_softmax(part, dim=1).gather(1, chosen[:, [k]]) for k, part in enumerate(parts)]
            return torch.stack(found).sum(dim=0)
        assert self.kind == "gaussian", f"{self.kind} actors have no density of given actions"
        return gaussian_log_density(actions, mean, log_std.exp()).sum(dim=1, keepdim=True)

    def each_choice(self, logits: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """(B,) int64, or (B, k) of several choices at a time, by ``choose`` from the logits (B, n) of each."""
        if not self.choices:
            return choose(logits)
        return torch.stack([choose(part) for part in logits.split(self.choices, dim=1)], dim=1)

    def probabilities(self, parameters: Sequence[Tensor], observations: Any) -> Tensor:
        """pi(.|s) of a categorical actor of one choice, (B, n)."""
        return self.outputs(parameters, observations)[0].softmax(dim=1)


class Actor(nn.Module):
    """The network of an actor with what it acts by.

    :param network: as in :class:`ActorFunction`
    :param action_dim: A
    :param choices: as in :class:`ActorFunction`, as is ``encoder``
    """

    def __init__(
        self,
        kind: Kind,
        network: nn.Sequential,
        action_dim: int,
        choices: Sequence[int] = (),
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network
        self.log_std = nn.Parameter(torch.zeros(action_dim)) if kind == "gaussian" else None
        self.function = ActorFunction(kind, network, choices, encoder)

    def ordered_parameters(self) -> list[nn.Parameter]:
        """In the order that :class:`ActorFunction` takes them."""
        encoder = [] if self.encoder is None else self.encoder.parameters()
        return [*encoder, *self.network.parameters(), *([] if self.log_std is None else [self.log_std])]

    def forward(self, observations: Any, deterministic: bool = True) -> Tensor:
        """Actions (B, A) in [-1, 1], or (B,), for normalised observations (B, O), or such as the encoder takes."""
        parameters = self.ordered_parameters()
        if deterministic or self.function.kind == "deterministic":
            return self.function.mean_action(parameters, observations)
        if self.function.kind == "categorical":
            logits, _ = self.function.outputs(parameters, observations)
            return self.function.each_choice(logits, lambda part: torch.multinomial(part.softmax(dim=1), 1).squeeze(1))
        mean, _ = self.function.outputs(parameters, observations)
        return self.function.sample(parameters, observations, torch.randn_like(mean)).actions
