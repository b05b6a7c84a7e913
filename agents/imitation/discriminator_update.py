"""The discriminator's gradient step as one function of tensors: eager, compiled, or captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.agents.imitation.discriminator import Discriminator
from rlopt.nn.stacked import StackedParameters, plain_adam
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.validation import check_number


class DiscriminatorUpdate:
    """Steps of Adam down :func:`~rlopt.agents.imitation.adversarial_losses.discriminator_loss` plus gradient penalty.

    The network's parameters and the optimiser's state become views into ``parameters``, which every step writes in
    place: whatever reads them, a compiled step of the policy included, sees the newest discriminator.

    :param discriminator: the network that is trained
    :param optimizer: plain ``torch.optim.Adam`` over its parameters, whose learning rate may change between steps
    :param mode: how a step is taken, see :func:`rlopt.optim.compiled_step.choose_mode`
    :param penalty_coef: weight of the gradient penalty, >= 0; AILBoost's and DAC's is 10
    :raises rlopt.errors.ConfigError: a setting is unknown or outside its range
    :raises ValueError: another optimiser
    """

    def __init__(
        self,
        discriminator: Discriminator,
        optimizer: torch.optim.Optimizer,
        mode: Mode = "eager",
        *,
        divergence: losses.Divergence = "reverse_kl",
        penalty_coef: float = 10.0,
    ) -> None:
        losses.check_divergence(divergence)
        check_number("penalty_coef", penalty_coef, 0, float("inf"), closed=True, whole=False)
        if not plain_adam(optimizer):
            raise ValueError("the discriminator's step is torch.optim.Adam's without weight decay, amsgrad or maximize")
        self.discriminator, self.optimizer = discriminator, optimizer
        self.divergence, self.penalty_coef = divergence, penalty_coef
        columns = [[parameter] for parameter in discriminator.network.parameters()]
        self.parameters = StackedParameters(columns, (), [optimizer])
        self._device = columns[0][0].device
        self._step = GradientStep(self.step, mode, self.parameters.changed)
        self._rate: tuple[float, Tensor] = (float("nan"), torch.empty(0))

    @property
    def mode(self) -> Mode:
        """How a step is taken. Another one leaves the parameters where they are in memory."""
        return self._step.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode != self._step.mode:
            self._step = GradientStep(self.step, mode, self.parameters.changed)

    def __call__(
        self, expert_inputs: Tensor, expert_weights: Tensor, policy_inputs: Tensor, policy_weights: Tensor, mix: Tensor
    ) -> losses.Info:
        """One step; see :meth:`step`. In a CUDA graph the next call overwrites what it returns."""
        self.parameters.attach()
        arguments = (expert_inputs, expert_weights, policy_inputs, policy_weights, mix, self._learning_rate())
        return self._step(*arguments)

    def _learning_rate(self) -> Tensor:
        """A float64 scalar on the device, made anew on change."""
        rate = float(self.optimizer.param_groups[0]["lr"])
        if rate != self._rate[0]:
            self._rate = rate, torch.tensor(rate, dtype=torch.float64).to(self._device)
        return self._rate[1]

    def step(
        self,
        expert_inputs: Tensor,
        expert_weights: Tensor,
        policy_inputs: Tensor,
        policy_weights: Tensor,
        mix: Tensor,
        learning_rate: Tensor,
    ) -> losses.Info:
        """One update in place, a function of tensors; nothing changes where the loss or a gradient is not finite.

        :param expert_inputs: (B, I), as ``policy_inputs``
        :param expert_weights: (B, 1), >= 0, as ``policy_weights``
        :param mix: (B, 1), uniform in [0, 1): where between the two rows the penalty is taken
        :returns: scalars: ``discriminator_loss`` without the penalty, ``gradient_penalty`` without its weight,
            ``expert_output`` and ``policy_output`` (weighted means of D), ``estimated_reverse_kl`` in nats, all before
            the step; ``discriminator_finite``, 1 where the step was taken and 0 where it was not
        """

        def objective(parameters: Sequence[Tensor]) -> tuple[Tensor, losses.Info]:
            def outputs(inputs: Tensor) -> Tensor:
                return self.discriminator.outputs(parameters, inputs)

            n_expert = len(expert_inputs)
            on_expert, on_policy = outputs(torch.cat([expert_inputs, policy_inputs])).tensor_split([n_expert])
            batches = (on_expert, on_policy, expert_weights, policy_weights)
            loss, info = losses.discriminator_loss(*batches, divergence=self.divergence)
            info["expert_output"] = losses.weighted_mean(on_expert, expert_weights).detach()
            info["policy_output"] = losses.weighted_mean(on_policy, policy_weights).detach()
            info["estimated_reverse_kl"] = losses.estimated_reverse_kl(*batches).detach()
            if self.penalty_coef:
                between = losses.convex_mix(expert_inputs, policy_inputs, mix)
                # A pair counts as its rows do: what weighs nothing in either batch is not held to a slope.
                penalty = losses.gradient_penalty(outputs, between, (expert_weights + policy_weights) / 2)
                info["gradient_penalty"] = penalty.detach()
                loss = loss + self.penalty_coef * penalty
            return loss, info | {"total": loss.detach()}

        gradients, info = grad(objective, has_aux=True)(self.parameters.tensors)
        keep = torch.stack([info.pop("total"), *(gradient.sum() for gradient in gradients)]).isfinite().all()
        group = self.optimizer.param_groups[0]
        self.parameters.adam(gradients, learning_rate, keep, group["betas"], group["eps"])
        return info | {"discriminator_finite": keep.to(info["discriminator_loss"].dtype)}
