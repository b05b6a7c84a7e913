"""The discriminator's gradient step as one function of tensors: eager, compiled, or captured in a CUDA graph."""

import math

import torch
from torch import Tensor, nn

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.optim.compiled_step import GradientStep, Mode
from rlopt.optim.descent import Network, Part
from rlopt.optim.held_networks import HeldNetworks, Store

_NAME = "discriminator"


class DiscriminatorUpdate:
    """Steps of Adam down :func:`~rlopt.agents.imitation.adversarial_losses.discriminator_loss` plus gradient penalty.

    Every step writes the parameters in place: whatever reads them, a compiled step of the policy included, sees the
    newest discriminator.

    :param discriminator: the network that is trained
    :param optimizer: plain ``torch.optim.Adam`` over its parameters, whose learning rate may change between steps
    :param mode: how a step is taken, see :func:`rlopt.optim.compiled_step.choose_mode`
    :param gradient_penalty: weight of the gradient penalty, >= 0
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: torch.optim.Optimizer,
        mode: Mode = "eager",
        *,
        divergence: losses.Divergence = "reverse_kl",
        gradient_penalty: float = 10.0,
    ) -> None:
        self.divergence, self.gradient_penalty = divergence, gradient_penalty
        # Gradients are not scaled down, but have to be finite.
        self._store = Store([{_NAME: Part(discriminator, optimizer, max_grad_norm=math.inf)}])
        self._step = GradientStep(self.step, mode, self._store.changed)
        self._rate: tuple[float, Tensor] = (float("nan"), torch.empty(0))

    @property
    def mode(self) -> Mode:
        """How a step is taken. Another one leaves the parameters where they are in memory."""
        return self._step.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode != self._step.mode:
            self._step = GradientStep(self.step, mode, self._store.changed)

    def __call__(
        self, expert_inputs: Tensor, expert_weights: Tensor, policy_inputs: Tensor, policy_weights: Tensor, mix: Tensor
    ) -> losses.Info:
        """One step; see :meth:`step`. In a CUDA graph the next call overwrites what it returns."""
        self._store.attach()
        ((rate,),) = self._store.rates()
        if rate != self._rate[0]:
            self._rate = rate, torch.tensor(rate, dtype=torch.float64).to(expert_inputs.device)
        return self._step(expert_inputs, expert_weights, policy_inputs, policy_weights, mix, self._rate[1])

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
        :param learning_rate: scalar, float64
        :returns: those of :meth:`objective`, and ``discriminator_finite``, 1 where the step was taken and 0 where not
        """
        state = self._store.state
        networks = HeldNetworks(self._store, state, {_NAME: learning_rate})
        rows = (expert_inputs, expert_weights, policy_inputs, policy_weights, mix)
        info: losses.Info = networks.descend(_NAME, self.objective, *rows)
        steps_taken = networks.state["step"][_NAME][""] - state["step"][_NAME][""]
        info["discriminator_finite"] = steps_taken[0].clone()
        self._store.write(networks.state)
        return info

    def objective(
        self,
        discriminator: Network,
        expert_inputs: Tensor,
        expert_weights: Tensor,
        policy_inputs: Tensor,
        policy_weights: Tensor,
        mix: Tensor,
    ) -> tuple[Tensor, losses.Info]:
        """What the discriminator descends, a scalar, from the arguments of :meth:`step`.

        Its statistics are scalars: ``discriminator_loss`` without the penalty, ``gradient_penalty`` without its weight,
        ``expert_output`` and ``policy_output`` (weighted means of D), ``estimated_reverse_kl`` in nats.
        """
        outputs: Tensor = discriminator(torch.cat([expert_inputs, policy_inputs]))
        on_expert, on_policy = outputs.tensor_split([len(expert_inputs)])
        batches = (on_expert, on_policy, expert_weights, policy_weights)
        loss, info = losses.discriminator_loss(*batches, divergence=self.divergence)
        info["expert_output"] = losses.weighted_mean(on_expert, expert_weights).detach()
        info["policy_output"] = losses.weighted_mean(on_policy, policy_weights).detach()
        info["estimated_reverse_kl"] = losses.estimated_reverse_kl(*batches).detach()
        if self.gradient_penalty:
            between = losses.convex_mix(expert_inputs, policy_inputs, mix)
            # A pair counts as its rows do: what weighs nothing in either batch is not held to a slope.
            penalty = losses.gradient_penalty(discriminator, between, (expert_weights + policy_weights) / 2)
            info["gradient_penalty"] = penalty.detach()
            loss = loss + self.gradient_penalty * penalty
        return loss, info
