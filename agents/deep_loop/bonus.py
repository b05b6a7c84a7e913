"""Evidence about a pair (s, a): features, elliptical bonus, and the discrepancy of a frozen hypothesis."""

import math

import torch
from torch import Tensor, nn

from rlopt.agents.deep_loop import losses

REFRESH_EVERY = 1000
"""Transitions between two inversions from scratch: rank-one updates gather rounding errors."""
SMALLEST_SCALE = 1e-3
"""Of an input's standard deviation: an input that was constant so far does not become infinite when it moves."""


class FourierFeatures(nn.Module):
    """psi(s, a) = sqrt(2/d) cos(W x + u), x the normalised (s, a): random features of a Gaussian kernel.

    W and u are drawn once (Rahimi and Recht, 2007). The normalisation is fixed by :meth:`fit`.

    :param n_inputs: of observation and action together
    :param n_features: d
    :param length_scale: of the kernel, in standard deviations of the inputs at a distance of sqrt(n_inputs)
    """

    weight: Tensor
    phase: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, n_inputs: int, n_features: int, length_scale: float) -> None:
        super().__init__()
        frequency = 1.0 / (length_scale * math.sqrt(n_inputs))
        self.register_buffer("weight", torch.randn(n_features, n_inputs) * frequency)
        self.register_buffer("phase", torch.rand(n_features) * 2 * math.pi)
        self.register_buffer("shift", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))

    def fit(self, inputs: Tensor) -> None:
        """Normalises by mean and deviation of ``inputs`` (N, I) from now on."""
        self.shift.copy_(inputs.mean(dim=0))
        self.scale.copy_(inputs.std(dim=0, unbiased=False).clamp_min(SMALLEST_SCALE))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, d) from (B, I)."""
        return losses.fourier_features(inputs, self.weight, self.phase, self.shift, self.scale)


class Evidence(nn.Module):
    """Sums over the data from which bonus and discrepancy follow, in float64; an update costs O(d^2).

    :param n_features: d
    :param ridge: of A = ridge I + sum psi psi^T, > 0
    """

    gram: Tensor
    inverse: Tensor
    moment: Tensor
    count: Tensor

    def __init__(self, n_features: int, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        self.register_buffer("gram", torch.empty(n_features, n_features, dtype=torch.float64))
        self.register_buffer("inverse", torch.empty_like(self.gram))
        self.register_buffer("moment", torch.empty(n_features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device="cpu"))
        self.clear()

    def clear(self) -> None:
        """Forgets all data."""
        identity = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        self.gram.copy_(self.ridge * identity)
        self.inverse.copy_(identity / self.ridge)
        self.moment.zero_()
        self.count.zero_()

    def add(self, features: Tensor, residuals: Tensor | None = None) -> None:
        """Takes transitions in.

        :param features: psi, (N, d)
        :param residuals: r + V_f(s') - J_f - Q_f(s, a) of the frozen hypothesis, (N, 1); None where there is none
        """
        psi = features.to(self.gram.dtype)
        self.gram += psi.mT @ psi
        if residuals is not None:
            self.moment += psi.mT @ residuals.to(psi.dtype).squeeze(1)
        before = int(self.count)
        self.count += len(psi)
        if len(psi) > len(self.moment) // 4 or before // REFRESH_EVERY != int(self.count) // REFRESH_EVERY:
            self.inverse.copy_(torch.cholesky_inverse(torch.linalg.cholesky(self.gram)))
            return
        across = self.inverse @ psi.mT
        inner = psi @ across + torch.eye(len(psi), dtype=psi.dtype, device=psi.device)
        self.inverse -= across @ torch.linalg.solve(inner, across.mT)

    def bonus(self, features: Tensor, beta: float, largest: float) -> Tensor:
        """:func:`rlopt.agents.deep_loop.losses.normalised_bonus` at psi (B, d)."""
        return losses.bonus(features, self.inverse, self.ridge, beta, largest)

    def discrepancy(self) -> float:
        """Of the frozen hypothesis on all data, in units of reward squared."""
        return float(losses.discrepancy(self.moment, self.inverse))


def switch_threshold(at_switch: float, beta: float, multiplier: float) -> float:
    """The discrepancy at which a hypothesis is given up: LOOP's ``multiplier`` beta, where it began inside the set.

    A neural critic rarely gets there; one that began outside, with the discrepancy ``at_switch``, may grow as much as
    one that began on the border.
    """
    return max(multiplier * beta, at_switch + (multiplier - 1) * beta)
