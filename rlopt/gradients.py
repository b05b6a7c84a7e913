"""Bounding the norm of gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[torch.nn.Parameter], max_norm: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` bit for bit, without its grouping by device and, on the CPU, in one call less.

    :param parameters: on one device; those without a gradient are left out
    :param max_norm: Euclidean norm to which longer gradients are scaled down, > 0
    :returns: the norm before, a scalar tensor
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if norm.device.type != "cpu":
        torch._foreach_mul_(gradients, scale)
    elif (factor := scale.item()) != 1.0:
        torch._foreach_mul_(gradients, factor)
    return norm
