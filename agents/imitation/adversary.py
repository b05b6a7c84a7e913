"""The discriminator with what surrounds it: its inputs, its training and the reward that it gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.agents.imitation.discriminator import (
    Discriminator,
    InputKind,
    OutputKind,
    absorbing_input,
    discriminator_inputs,
    input_size,
)
from rlopt.agents.imitation.discriminator_update import DiscriminatorUpdate
from rlopt.agents.imitation.image_features import ImageFeatures
from rlopt.errors import NonFiniteError
from rlopt.optim.compiled_step import Mode

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BaseModel

    from rlopt.agents.imitation.base import ExpertRows

SMALLEST_DEVIATION = 0.1
"""Of an observation, in its own unit, added in quadrature to the expert's."""


@dataclass(frozen=True)
class AdversarySettings:
    """The settings of :class:`rlopt.AILBoost` that shape the discriminator; see there."""

    divergence: losses.Divergence
    reward_form: losses.RewardForm
    discriminator_input: InputKind
    discriminator_net_arch: Sequence[int]
    discriminator_output: OutputKind
    output_bound: float
    discriminator_learning_rate: float
    gradient_penalty: float
    normalize_inputs: bool
    absorbing: bool
    gamma: float


class Adversary:
    """A discriminator in training.

    With ``absorbing``, a true terminal is followed for ever by one absorbing state, which the discriminator sees as a
    row of zeros with an indicator. Its value is then r_a / (1 - gamma), with r_a its reward, in closed form; DAC (arXiv
    1809.02925, section 4.2) learns the same number from rows that it adds to the replay.

    :param observation_size: numbers in a flat observation
    :param action_size: numbers in an action
    :param features: what it sees in place of images
    """

    def __init__(
        self,
        settings: AdversarySettings,
        observation_size: int,
        action_size: int,
        device: torch.device,
        features: ImageFeatures | None = None,
    ) -> None:
        self.settings, self.features = settings, features
        observation_size = observation_size if features is None else features.size
        kind, absorbing = settings.discriminator_input, settings.absorbing
        n_inputs = input_size(observation_size, action_size, kind, absorbing)
        self.discriminator = Discriminator(
            n_inputs,
            settings.discriminator_net_arch,
            output=settings.discriminator_output,
            bound=settings.output_bound,
        ).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.discriminator_learning_rate)
        self._absorbing = absorbing_input(n_inputs, device) if absorbing else None
        # Those of features are in checkpoints, as the encoder is; those of states come from the demonstrations again.
        self._centre = torch.zeros(observation_size, device=device) if features is None else features.centre
        self._scale = torch.ones(observation_size, device=device) if features is None else features.scale
        # Now, because it moves the parameters, whose place a captured step of the policy remembers.
        self._update = DiscriminatorUpdate(
            self.discriminator,
            self.optimizer,
            divergence=settings.divergence,
            penalty_coef=settings.gradient_penalty,
        )

    def look_again(self, critic: BaseModel, expert: ExpertRows) -> ExpertRows:
        """Before training: sees images as the critics do now. The expert's rows as :meth:`inputs` takes them.

        Of states they are ``expert`` itself. Of images they are the features, computed once for a whole training.
        """
        if self.features is None:
            return expert
        self.features.follow(critic)
        seen = copy.copy(expert)
        seen.observations = seen.next_observations = self.features(expert.observations)
        if self._sees_next:
            seen.next_observations = self.features(expert.next_observations)
        self.compare_with(seen.observations)
        return seen

    @property
    def _sees_next(self) -> bool:
        return self.settings.discriminator_input == "state_next_state"

    def compare_with(self, observations: Tensor) -> None:
        """Takes mean and deviation of an expert's observations (N, ...), if inputs are to be normalised by them."""
        if not self.settings.normalize_inputs:
            return
        rows = self._flat(observations)
        self._centre.copy_(rows.mean(dim=0))
        # In place, for compiled steps; what the expert holds still is not blown up without bound.
        self._scale.copy_((rows.var(dim=0, correction=0) + SMALLEST_DEVIATION**2).sqrt())

    def _flat(self, observations: Tensor) -> Tensor:
        """(N, S) of states, images (N, C, H, W), or features of those."""
        if self.features is not None and observations.dim() > 2:
            return self.features(observations)
        return observations.float().flatten(1)

    def _normalized(self, observations: Tensor) -> Tensor:
        return (self._flat(observations) - self._centre) / self._scale

    def inputs(self, batch: Any) -> Tensor:
        """What the discriminator sees of the transitions of ``batch``, (B, I)."""
        outside = torch.zeros_like(batch.actions[:, :1]) if self._absorbing is not None else None
        observations = self._normalized(batch.observations)
        following = self._normalized(batch.next_observations) if self._sees_next else observations
        return discriminator_inputs(observations, batch.actions, following, self.settings.discriminator_input, outside)

    @torch.no_grad()
    def reward(self, batch: Any) -> Tensor:
        """Rewards (B, 1) of transitions, with all that follows a true terminal (``batch.dones``, (B, 1))."""
        settings = self.settings

        def rewards(inputs: Tensor) -> Tensor:
            outputs = self.discriminator(inputs)
            return losses.reward(outputs, divergence=settings.divergence, form=settings.reward_form)

        received = rewards(self.inputs(batch))
        if self._absorbing is not None:
            received = received + batch.dones * rewards(self._absorbing) * (settings.gamma / (1 - settings.gamma))
        return received

    def train(
        self, steps: int, mode: Mode, draw: Callable[[], tuple[Any, Tensor, float, Any]], num_timesteps: int
    ) -> losses.Info:
        """Takes gradient steps; means of their statistics.

        :param draw: gives for each step a batch of the expert, its terminals (B, 1), the weight of the absorbing state
            after each of those, and a batch of the policy
        :param num_timesteps: environment steps done, for the message
        :raises rlopt.errors.NonFiniteError: the discriminator's loss or gradient is not finite; it stays as it was
        """
        self._update.mode = mode
        collected: list[Tensor] = []
        names: list[str] = []
        for _ in range(steps):
            expert, terminals, weight, policy = draw()
            on_expert, expert_weights = self._with_absorbing(self.inputs(expert), terminals * weight)
            on_policy, policy_weights = self._with_absorbing(self.inputs(policy), policy.dones)
            info = self._update(on_expert, expert_weights, on_policy, policy_weights, torch.rand_like(expert_weights))
            names = list(info)
            collected.append(torch.stack(list(info.values())))
        if not collected:
            return {}
        means = dict(zip(names, torch.stack(collected).mean(dim=0).unbind(), strict=True))
        if float(means.pop("discriminator_finite")) < 1:
            raise NonFiniteError(
                f"the discriminator diverged at step {num_timesteps}: its loss is NaN or infinite; lower "
                "discriminator_learning_rate, bound its output, or raise gradient_penalty"
            )
        return means

    def _with_absorbing(self, inputs: Tensor, terminals: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with their weights; after each terminal one of the absorbing state."""
        ones = torch.ones_like(terminals)
        if self._absorbing is None:
            return inputs, ones
        return torch.cat([inputs, self._absorbing.expand_as(inputs)]), torch.cat([ones, terminals])
