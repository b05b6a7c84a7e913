"""Networks of actors and critics beyond plain layers: layer normalisation, SimBa, and CrossQ's batch renormalisation.

A network here does the same in training and out of it, whatever ``train()`` says: a pass that normalises by its batch
is asked for by an argument, and gives the running statistics that follow from it instead of changing its buffers. So a
gradient step stays a function of tensors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rlopt.errors import require

EXPANSION = 4
"""Width of the hidden layer of a residual block, in widths of the block (SimBa)."""
Statistics = dict[str, Tensor]
"""What running statistics become, by the name of the buffer."""


def layer_norm_mlp(n_inputs: int, widths: Sequence[int], n_outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """Hidden layers with layer normalisation before each activation, and a linear layer (RLPD, arXiv 2302.02948)."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), activation()]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class ResidualBlock(nn.Module):
    """x + W2 f(W1 LN(x)), with a hidden layer of four times the width (SimBa, arXiv 2410.09754, section 4)."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)
        self.activation = activation()
        for layer in (self.expand, self.contract):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from the same."""
        return x + self.contract(self.activation(self.expand(self.layer_norm(x))))


def simba(n_inputs: int, widths: Sequence[int], n_outputs: int | None, activation: type[nn.Module]) -> nn.Sequential:
    """SimBa's network: a linear embedding, a residual block for each width, layer normalisation, and a linear layer.

    :param widths: all the same: the residual connections add what has one width
    :param n_outputs: None for the features (B, width) alone
    :raises rlopt.errors.ConfigError: no width, or different ones
    """
    require(
        len(set(widths)) == 1,
        f"network simba has residual blocks of one width, not {list(widths)}: give an equal number for each block",
    )
    width = widths[0]
    embedding = nn.Linear(n_inputs, width)
    nn.init.orthogonal_(embedding.weight)
    nn.init.zeros_(embedding.bias)
    layers = [embedding, *(ResidualBlock(width, activation) for _ in widths), nn.LayerNorm(width)]
    return nn.Sequential(*layers, *([] if n_outputs is None else [nn.Linear(width, n_outputs)]))


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe, arXiv 1702.03275) of features (B, n), as CrossQ (arXiv 1902.05605) has it.

    With the batch's mean m and deviation s, and the running ones M and S, it gives (x - m) / s * r + d, where
    r = s / S within [1 / 3, 3] and d = (m - M) / S within [-5, 5] are constants to the gradient. For the first
    100,000 passes it is batch normalisation: r is 1 and d is 0. Without a batch it gives (x - M) / S.
    """

    running_mean: Tensor
    running_var: Tensor
    steps: Tensor
    EPSILON, MOMENTUM, R_MAX, D_MAX, WARM_UP = 1e-3, 0.99, 3.0, 5.0, 100_000

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.weight, self.bias = nn.Parameter(torch.ones(n_features)), nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """By the running statistics: (B, n) from the same."""
        normal = (x - self.running_mean) * (self.running_var + self.EPSILON).rsqrt()
        return normal * self.weight + self.bias

    def by_batch(self, x: Tensor) -> tuple[Tensor, Statistics]:
        """By the batch's statistics: (B, n), and what the running ones become."""
        mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
        std, running_std = (variance + self.EPSILON).sqrt(), (self.running_var + self.EPSILON).sqrt()
        warm = self.steps >= self.WARM_UP
        known_mean, known_std = mean.detach(), std.detach()
        r = torch.where(warm, (known_std / running_std).clamp(1 / self.R_MAX, self.R_MAX), torch.ones_like(known_std))
        shift = ((known_mean - self.running_mean) / running_std).clamp(-self.D_MAX, self.D_MAX)
        d = torch.where(warm, shift, torch.zeros_like(shift))
        normal = (x - mean) / std * r + d
        statistics = {
            "running_mean": self.running_mean + (known_mean - self.running_mean) * (1 - self.MOMENTUM),
            "running_var": self.running_var + (variance.detach() - self.running_var) * (1 - self.MOMENTUM),
            "steps": self.steps + 1,
        }
        return normal * self.weight + self.bias, statistics

    def extra_repr(self) -> str:
        return str(self.n_features)


class BatchRenormNetwork(nn.Sequential):
    """CrossQ's network: batch renormalisation of the inputs and after the activation of every hidden layer."""

    def __init__(
        self, n_inputs: int, widths: Sequence[int], n_outputs: int | None, activation: type[nn.Module]
    ) -> None:
        layers: list[nn.Module] = [BatchRenorm(n_inputs)]
        for width in widths:
            layers += [nn.Linear(n_inputs, width), activation(), BatchRenorm(width)]
            n_inputs = width
        super().__init__(*layers, *([] if n_outputs is None else [nn.Linear(n_inputs, n_outputs)]))

    def forward(self, x: Tensor, by_batch: bool = False) -> Any:
        """The output (B, out) by the running statistics; with ``by_batch`` by the batch's, and the new running ones."""
        statistics: Statistics = {}
        for name, layer in self.named_children():
            if by_batch and isinstance(layer, BatchRenorm):
                x, found = layer.by_batch(x)
                statistics |= {f"{name}.{key}": value for key, value in found.items()}
            else:
                x = layer(x)
        return (x, statistics) if by_batch else x


class RunningNormalizer(nn.Module):
    """(x - mean) / deviation of features (B, n), by all that were shown to :meth:`update` (SimBa, section 4).

    It begins as if one row of mean 0 and variance 1 had been shown, so that the first few rows are not blown up.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    EPSILON = 1e-8

    def __init__(self, n_features: int) -> None:
        super().__init__()
        # float64: a millionth of a difference would be lost in float32.
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(n_features, dtype=torch.float64))
        self.register_buffer("count", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n) from the same."""
        return (x - self.mean.to(x.dtype)) * (self.variance + self.EPSILON).rsqrt().to(x.dtype)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Counts rows (N, n), in place (Chan, Golub and LeVeque: the variance of two samples together)."""
        rows = rows.to(self.mean.dtype)
        share = len(rows) / (self.count + len(rows))
        difference = rows.mean(dim=0) - self.mean
        within = (rows.var(dim=0, correction=0) - self.variance) * share
        self.variance.add_(within + difference**2 * share * (1 - share))
        self.mean.add_(difference * share)
        self.count.add_(len(rows))


class NormalizedExtractor(BaseFeaturesExtractor):
    """Features of another extractor without weights, normalised by running statistics.

    :param statistics: may be shared, so that several networks normalise alike
    """

    def __init__(
        self, observation_space: spaces.Space, extractor: BaseFeaturesExtractor, statistics: RunningNormalizer
    ) -> None:
        super().__init__(observation_space, extractor.features_dim)
        self.extractor, self.statistics = extractor, statistics

    def forward(self, observations: Any) -> Tensor:
        """The features (B, n)."""
        return self.statistics(self.extractor(observations))
