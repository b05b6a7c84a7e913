"""Networks as functions of stacked parameters: an ensemble is one batched product, an update treats all at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Module | None
"""None for a linear layer, which takes the next weight and bias; a LayerNorm, which does too; or an activation."""

Home = tuple[Tensor, Tensor, torch.optim.Optimizer | None, dict[str, Tensor]]
"""A network's parameter, the view that it is to be, its optimiser, and the views that its state there is to be."""

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.Identity)


def mlp_layers(network: nn.Module) -> list[Layer] | None:
    """The layers of a Sequential of Linear, LayerNorm (with bias) and activations; None if it holds anything else."""
    layers: list[Layer] = []
    for module in network if isinstance(network, nn.Sequential) else [network]:
        if type(module) is nn.Linear and module.bias is not None:
            layers.append(None)
        elif type(module) in _ELEMENTWISE or _is_layer_norm(module):
            layers.append(module)
        else:
            return None
    return layers


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module) is nn.LayerNorm and module.bias is not None and len(module.normalized_shape) == 1


def mlp(layers: Sequence[Layer], parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """The network's output (B, out), or that of stacked networks (..., B, out).

    :param parameters: weight (out, in) and bias (out,) of each linear layer in turn, or stacked (..., out, in) and
        (..., out) with one or more axes in front; of a LayerNorm two of (out,), or stacked (..., out)
    :param x: (B, in), or (..., B, in) for stacked networks
    """
    remaining = iter(parameters)
    for layer in layers:
        if layer is not None and not isinstance(layer, nn.LayerNorm):
            x = layer(x)
            continue
        weight, bias = next(remaining), next(remaining)
        if isinstance(layer, nn.LayerNorm):
            normal = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            x = normal * weight.unsqueeze(-2) + bias.unsqueeze(-2)
            continue
        x = F.linear(x, weight, bias) if weight.dim() == 2 else _batched_linear(x, weight, bias)
    return x


def _batched_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` of every stacked layer, as one batched product: (..., B, out)."""
    stack = weight.shape[:-2]
    product = torch.baddbmm(bias.flatten(0, -2).unsqueeze(1), x.flatten(0, -3), weight.flatten(0, -3).mT)
    return product.unflatten(0, stack)


def over(values: Tensor, tensor: Tensor) -> Tensor:
    """``values`` (shape of the stack) with as many axes behind as it needs to broadcast against ``tensor``."""
    return values.reshape(values.shape + (1,) * (tensor.dim() - values.dim()))


def _computed_once(values: Tensor) -> Tensor:
    """``values`` in memory of their own; torch.compile would compute them, powers and all, for every few parameters."""
    return values.as_strided(values.shape, values.stride())


class StackedParameters:
    """Parameters of one or more equal networks, with Adam's moments, each kind in one tensor.

    The networks' own parameters and their optimisers' state become views into these tensors. So whatever reads or
    writes them in place (``state_dict``, ``load_state_dict``, checkpoints) continues working, and sees every update.

    :param columns: ``columns[k]`` holds the k-th parameter of every network
    :param shape: how the networks are laid out: () for a single one, (N,) for an ensemble of N, (S, N) for S ensembles
    :param optimizers: the ``torch.optim.Adam`` of each network, as many as a column has entries; empty for networks
        that are not trained
    """

    def __init__(
        self, columns: Sequence[Sequence[Tensor]], shape: tuple[int, ...], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self._columns = [list(column) for column in columns]
        self.tensors = [self._empty(column, shape) for column in self._columns]
        trained = bool(optimizers)
        self.first_moments = [self._empty(column, shape) for column in self._columns] if trained else []
        self.second_moments = [self._empty(column, shape) for column in self._columns] if trained else []
        self.steps = torch.zeros(len(self._columns), *shape, device=self.tensors[0].device)
        """Adam's step count, one for each parameter because torch keeps it so; those of one network are equal."""
        self._homes: list[Home] = []
        for index, column in enumerate(self._columns):
            for member, parameter in enumerate(column):
                home, *moments = (
                    part[index].view(-1, *parameter.shape)[member]
                    for part in (self.tensors, self.first_moments, self.second_moments)
                    if part
                )
                count = self.steps[index].view(-1)[member]
                state = dict(zip(("exp_avg", "exp_avg_sq", "step"), [*moments, count], strict=trained))
                owner = optimizers[member] if trained else None
                self._homes.append((parameter, home, owner, state if trained else {}))
        self.attach()

    @staticmethod
    def _empty(column: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.zeros((*shape, *column[0].shape), dtype=column[0].dtype, device=column[0].device)

    def changed(self) -> list[Tensor]:
        """Every tensor that :meth:`adam` writes."""
        return [*self.tensors, *self.first_moments, *self.second_moments, self.steps]

    def from_members(self) -> list[Tensor]:
        """The tensors as functions of the networks' own parameters, which a gradient then reaches."""
        return [torch.stack(column).view_as(own) for column, own in zip(self._columns, self.tensors, strict=True)]

    def attach(self) -> None:
        """Makes parameters and optimiser state views again, keeping their values, where something replaced them."""
        for parameter, home, optimizer, moments in self._homes:
            if parameter.data_ptr() != home.data_ptr():
                home.copy_(parameter.detach())
                parameter.data = home
            if optimizer is None:
                continue
            state: dict[str, Any] = optimizer.state[parameter]
            for name, view in moments.items():
                value = state.get(name)
                if value is None:
                    view.zero_()
                elif value is not view:
                    view.copy_(value)
                state[name] = view

    def adam(self, gradients: Sequence[Tensor], learning_rate: Tensor, keep: Tensor, betas: Any, eps: float) -> None:
        """One step of Adam (Kingma and Ba, arXiv 1412.6980) on every parameter, in place.

        :param gradients: in the order and shapes of ``tensors``
        :param learning_rate: a scalar, or one for each entry of the stack's first axis
        :param keep: bool, of the same shape; where it is False, nothing changes
        """
        self.steps.add_(over(keep, self.steps[0]).to(self.steps.dtype))
        scales = adam_scales(self.steps[0], learning_rate, betas, eps)
        groups = zip(self.tensors, gradients, self.first_moments, self.second_moments, strict=True)
        for parameter, gradient, first, second in groups:
            moved = adam_moved(parameter, gradient, first, second, *scales, keep, betas)
            for tensor, value in zip((parameter, first, second), moved, strict=True):
                tensor.copy_(value)


def adam_scales(steps: Tensor, learning_rate: Tensor, betas: Any, eps: float) -> tuple[Tensor, Tensor]:
    """Step size and epsilon of Adam at step number ``steps``, corrected for the bias of its moments."""
    # Powers of 0.999 need float64: 1 - 0.999^t would lose four digits.
    step = steps.double()
    scale = (1 - torch.pow(betas[1], step)).sqrt()
    step_size = over(learning_rate, step) * scale / (1 - torch.pow(betas[0], step))
    return _computed_once(step_size.to(steps.dtype)), _computed_once((scale * eps).to(steps.dtype))


def adam_moved(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step_size: Tensor,
    scaled_eps: Tensor,
    keep: Tensor,
    betas: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameter and moments after a step of Adam; where ``keep`` is False as they are."""
    new_first = first + (gradient - first) * (1 - betas[0])
    new_second = second * betas[1] + gradient * gradient * (1 - betas[1])
    change = over(step_size, parameter) * new_first / (new_second.sqrt() + over(scaled_eps, parameter))
    kept = over(keep, parameter)
    return (
        torch.where(kept, parameter - change, parameter),
        torch.where(kept, new_first, first),
        torch.where(kept, new_second, second),
    )


def plain_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``optimizer`` is Adam with one group and no option that :meth:`StackedParameters.adam` lacks."""
    if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    return not (group["weight_decay"] or group["amsgrad"] or group["maximize"] or group["differentiable"])
