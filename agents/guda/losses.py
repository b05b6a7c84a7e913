"""The loss of the learned dynamics."""

import math

import torch
from torch import Tensor


def gaussian_loss(mean: Tensor, log_std: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of diagonal Gaussians, one ensemble member beside the other.

    E = members, B = transitions, D = dimensions of the state. As in probabilistic ensembles (Chua et al., arXiv
    1805.12114, equation 1): 1/2 ((y - mean) / std)^2 + log std + 1/2 log 2 pi, summed over D, meaned over B and summed
    over E, since each member has parameters of its own.

    :param mean: [E, B, D]
    :param log_std: [E, B, D]: natural logarithms of the standard deviations
    :param target: [E, B, D]
    :returns: a scalar, and ``squared_error``: the mean of (y - mean)^2, detached
    """
    error = target - mean
    log_likelihood = -0.5 * (error * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    loss = -log_likelihood.sum(dim=-1).mean(dim=-1).sum()
    return loss, {"squared_error": (error.detach() ** 2).mean()}


def bounded_log_std(raw: Tensor, lowest: float = -5.0, highest: float = 3.0) -> Tensor:
    """Log standard deviations in (lowest, highest) from unbounded outputs, smoothly.

    Of normalised targets. Where training starts, ``raw`` near 0, the deviation should not be far below 1: errors are
    divided by it, and a small one makes the first thousand steps useless.
    """
    return lowest + (highest - lowest) * torch.sigmoid(raw)
