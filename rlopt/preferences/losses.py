"""The likelihood of preferences (Bradley and Terry 1952; Plackett 1975; Luce 1959) as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from rlopt.preferences.fragments import ABSENT, WORST


def plackett_luce_loss(scores: Tensor, places: Tensor) -> Tensor:
    """Mean over questions of the negative log-likelihood of their answers, (...,).

    The best fragment is chosen with probability proportional to exp(score), then the best of the rest, and so on over
    the given places. Fragments of one place tie: each is chosen among them and all worse ones (Breslow 1974). For two
    fragments, one better, this is the Bradley-Terry loss -log sigmoid(score - score'); for two that tie, it is twice
    the cross-entropy with one half.

    :param scores: (..., Q, n) of the fragments of Q questions
    :param places: (Q, n) or (..., Q, n) int64: 0 for the best, the same for those that tie; or :data:`.places.WORST`,
        :data:`.places.ABSENT`
    """
    present = places != ABSENT
    beside = present.unsqueeze(-2) & (places.unsqueeze(-2) >= places.unsqueeze(-1))
    rivals = scores.unsqueeze(-2).masked_fill(~beside, -torch.inf)
    chosen = present & (places != WORST)
    # What is not chosen has a rival too, itself, so that no gradient is NaN.
    own = torch.eye(places.shape[-1], dtype=torch.bool, device=scores.device)
    rivals = torch.where(own & ~chosen.unsqueeze(-1), torch.zeros_like(rivals), rivals)
    log_likelihood = torch.where(chosen, scores - rivals.logsumexp(dim=-1), torch.zeros_like(scores))
    return -log_likelihood.sum(dim=-1).mean(dim=-1)


def agreement(scores: Tensor, places: Tensor) -> Tensor:
    """Share of the ordered pairs of all answers that ``scores`` put in the same order, (...,); NaN without any.

    :param scores: as for :func:`plackett_luce_loss`, and so are ``places``
    """
    present = places != ABSENT
    better = present.unsqueeze(-1) & present.unsqueeze(-2) & (places.unsqueeze(-1) < places.unsqueeze(-2))
    right = better & (scores.unsqueeze(-1) > scores.unsqueeze(-2))
    return right.sum(dim=(-3, -2, -1)) / better.sum(dim=(-3, -2, -1))
