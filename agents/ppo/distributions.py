"""Factored action distributions as tensors, in closed form. Shapes: B batch, A action dimensions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Gaussian(NamedTuple):
    """A diagonal Gaussian's parameters: mean [B, A]; std [B, A], or [A] where it is the same in every row."""

    mean: Tensor
    std: Tensor

    def rows(self, index: Tensor | slice) -> Gaussian:
        """The parameters of those rows."""
        return Gaussian(self.mean[index], self.std if self.std.dim() == 1 else self.std[index])

    def log_prob(self, actions: Tensor) -> Tensor:
        """[B], the log-density of actions [B, A]."""
        nats = self.std.log() + 0.5 * math.log(2.0 * math.pi)
        return (-0.5 * ((actions - self.mean) / self.std).square() - nats).sum(dim=-1)

    def entropy(self) -> Tensor:
        """[B], in nats."""
        nats = self.std.log() + 0.5 * math.log(2.0 * math.pi * math.e)
        return nats.expand_as(self.mean).sum(dim=-1)


class Categorical(NamedTuple):
    """Logits [B, K] of one categorical a factor: one for Discrete, several for MultiDiscrete."""

    logits: tuple[Tensor, ...]

    def rows(self, index: Tensor | slice) -> Categorical:
        """The parameters of those rows."""
        return Categorical(tuple(factor[index] for factor in self.logits))

    def log_prob(self, actions: Tensor) -> Tensor:
        """[B], the log-probability of actions [B], or [B, factors]."""
        chosen = actions.long().reshape(-1, len(self.logits)).unbind(-1)
        found = [
            functional.log_softmax(factor, dim=-1).gather(-1, own.unsqueeze(-1)).squeeze(-1)
            for factor, own in zip(self.logits, chosen, strict=True)
        ]
        return torch.stack(found).sum(dim=0)

    def entropy(self) -> Tensor:
        """[B], in nats."""
        return torch.stack([_entropy(factor) for factor in self.logits]).sum(dim=0)


def _entropy(logits: Tensor) -> Tensor:
    log_prob = functional.log_softmax(logits, dim=-1)
    return -(log_prob.exp() * log_prob.masked_fill(log_prob.isneginf(), 0.0)).sum(dim=-1)


class Bernoulli(NamedTuple):
    """Logits [B, A] of independent binary actions."""

    logits: Tensor

    def rows(self, index: Tensor | slice) -> Bernoulli:
        """The parameters of those rows."""
        return Bernoulli(self.logits[index])

    def log_prob(self, actions: Tensor) -> Tensor:
        """[B], the log-probability of actions [B, A] of zeros and ones."""
        # Not the cross-entropy of torch, in which 0 times a logit of -inf is NaN.
        return functional.logsigmoid(torch.where(actions > 0.5, self.logits, -self.logits)).sum(dim=-1)

    def entropy(self) -> Tensor:
        """[B], in nats."""
        return _entropy(two_categories(self.logits)).sum(dim=-1)


def two_categories(logits: Tensor) -> Tensor:
    """ln of the probabilities of 1 and of 0, [B, A, 2], of binary variables with logits [B, A]."""
    return torch.stack([functional.logsigmoid(logits), functional.logsigmoid(-logits)], dim=-1)


Factors = Gaussian | Categorical | Bernoulli
