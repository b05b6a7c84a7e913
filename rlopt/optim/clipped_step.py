"""Gradient steps of bounded norm, with the work that does not change from step to step done once."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from rlopt.optim.optimizers import fill_gradients, is_second_order, is_watched


class ClippedStep:
    """``zero_grad``, ``backward``, ``clip_grad_norm_`` and ``optimizer.step`` in one call.

    An optimiser of second order gets gradients that can be differentiated again (:mod:`rlopt.optim.optimizers`).
    With a fused Adam that has moved every parameter before, the gradients lie in one tensor, which is zeroed, measured
    and scaled whole; small networks then take about half the time. Others go through the optimiser's own methods.
    Make it anew when the optimiser's settings or state change, or which parameters are frozen: those with
    ``requires_grad`` False stay as they are.

    :param optimizer: over exactly ``parameters``
    :param max_norm: Euclidean norm to which longer gradients are scaled down, > 0
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], max_norm: float) -> None:
        self.optimizer, self.max_norm = optimizer, max_norm
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    parameter.grad = None  # an old gradient would still move it
        self._flat: Tensor | None = None
        if self.parameters and _is_plain_fused_adam(optimizer, self.parameters):
            self._gather()

    def backward(self, loss: Tensor) -> Tensor:
        """Computes the gradient of a scalar and scales it down; returns its norm before, 0 where all is frozen."""
        if not self.parameters:
            return torch.zeros((), device=loss.device)
        if self._flat is None:
            for parameter in self.parameters:
                parameter.grad = None
            if is_second_order(self.optimizer):
                return self._backward_with_graph(loss)
            loss.backward()
            return torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self._flat.zero_()
        loss.backward()
        norm = torch.linalg.vector_norm(self._flat)
        if norm.device.type != "cpu":
            self._flat.mul_((self.max_norm / (norm + 1e-6)).clamp(max=1.0))
        elif not (total := norm.item() + 1e-6) <= self.max_norm:
            self._flat.mul_(self.max_norm / total)
        return norm

    def apply(self) -> None:
        """Moves the parameters along the gradient that :meth:`backward` left."""
        if not self.parameters:
            return
        if self._flat is None:
            self.optimizer.step()
            if is_second_order(self.optimizer):
                self.optimizer.zero_grad()  # or the graph would hang on the gradients
            return
        with torch.no_grad():
            adam(**self._arguments)

    def _backward_with_graph(self, loss: Tensor) -> Tensor:
        fill_gradients(self.optimizer, loss)
        found = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([p.grad.detach().norm() for p in found if p.grad is not None]))
        scale = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter in found:
            # Not in place: curvature is then that of the scaled loss too.
            parameter.grad = parameter.grad * scale
        return norm

    def _gather(self) -> None:
        parameters, group = self.parameters, self.optimizer.param_groups[0]
        self._flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        gradients = []
        for parameter, part in zip(parameters, self._flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
            gradients.append(parameter.grad)
        states = [self.optimizer.state[parameter] for parameter in parameters]
        self._arguments: dict[str, Any] = {
            "params": parameters,
            "grads": gradients,
            "exp_avgs": [state["exp_avg"] for state in states],
            "exp_avg_sqs": [state["exp_avg_sq"] for state in states],
            "max_exp_avg_sqs": [],
            "state_steps": [state["step"] for state in states],
            "fused": True,
            "decoupled_weight_decay": group["decoupled_weight_decay"],
            "amsgrad": False,
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            "eps": group["eps"],
            "maximize": group["maximize"],
        }


def _is_plain_fused_adam(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> bool:
    """Whether a step is a call of the functional ``adam`` on the optimiser's state, for every parameter.

    A parameter that no loss has reached has no state: it must stay without a gradient, not get one of zeros.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or len(optimizer.param_groups) != 1:
        return False
    group, first = optimizer.param_groups[0], parameters[0]
    trained = [parameter for parameter in group["params"] if parameter.requires_grad]
    usual = group["fused"] and not (group["amsgrad"] or group["capturable"] or group["differentiable"])
    return (
        bool(usual)
        and not is_watched(optimizer)
        and not any(p._post_accumulate_grad_hooks for p in parameters)  # such may put another gradient in its place
        and len(trained) == len(parameters)
        and all(mine is theirs for mine, theirs in zip(parameters, trained, strict=True))
        and all(p.dtype == torch.float32 and p.device == first.device for p in parameters)
        and all(optimizer.state.get(p) for p in parameters)
    )
