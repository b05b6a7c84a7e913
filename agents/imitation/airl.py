"""AIRL: GAIL whose discriminator is made of a reward, a shaping of it, and the policy's own probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from rlopt.agents.imitation.adversary import Adversary, AdversarySettings
from rlopt.agents.imitation.config import AIRLConfig
from rlopt.agents.imitation.discriminator import Discriminator, input_size
from rlopt.agents.imitation.gail import GAIL, Rows
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations

AT_ONCE = 4096
"""Transitions of the expert whose probability is computed at a time."""


class ScoredRows(NamedTuple):
    """Transitions with the policy's probability of their actions."""

    observations: Tensor
    """(N, O) float32, as ``actions`` (N, A), ``next_observations`` (N, O) and ``dones`` (N, 1), 1 at a true end."""
    actions: Tensor
    next_observations: Tensor
    dones: Tensor
    log_probs: Tensor
    """(N, 1) ln pi(a|s)."""

    def gather(self, rows: Tensor) -> ScoredRows:
        """Those at ``rows`` (B,)."""
        return ScoredRows(*(column.index_select(0, rows) for column in self))


class ShapedDiscriminator(nn.Module):
    """D (B, 1) = g(s, a) + gamma h(s') - h(s) - ln pi(a|s) from rows (s, a, s', continues, ln pi) of numbers.

    h is 0 after a true end. ``g_size`` are the columns that g sees, the first ones.
    """

    def __init__(self, observation_size: int, action_size: int, g_size: int, gamma: float, **settings: Any) -> None:
        super().__init__()
        self.g = Discriminator(g_size, output="none", **settings)
        self.h = Discriminator(observation_size, output="none", **settings)
        self.g_size, self.gamma = g_size, gamma
        self.sizes = [observation_size, action_size, observation_size, 1, 1]

    def forward(self, inputs: Tensor) -> Tensor:
        """D (B, 1)."""
        here, _, following, continues, log_probs = inputs.split(self.sizes, dim=1)
        shaping = self.gamma * continues.detach() * self.h(following) - self.h(here)
        # No gradient: the penalty is on what is learned.
        return self.g(inputs[:, : self.g_size]) + shaping - log_probs.detach()


class ShapedAdversary(Adversary):
    """An adversary with that discriminator.

    :param gamma: the discount factor of the learner
    """

    def __init__(
        self, settings: AdversarySettings, observation_size: int, action_size: int, device: torch.device, gamma: float
    ) -> None:
        self.gamma = gamma
        super().__init__(settings, observation_size, action_size, device)

    def network(self, observation_size: int, action_size: int) -> nn.Module:
        settings = self.settings
        g_size = input_size(observation_size, action_size, settings.discriminator_input)
        layers = {"net_arch": settings.discriminator_net_arch, "activation": settings.discriminator_activation}
        return ShapedDiscriminator(observation_size, action_size, g_size, self.gamma, **layers)

    def inputs(self, batch: Any) -> Tensor:
        """What the discriminator sees of the transitions of ``batch``, (B, I)."""
        here, following = self._normalized(batch.observations), self._normalized(batch.next_observations)
        return torch.cat([here, batch.actions, following, 1 - batch.dones, batch.log_probs], dim=1)

    @torch.no_grad()
    def base_reward(self, batch: Any) -> Tensor:
        """g (B, 1): the learned reward without its shaping, which holds for other learners and dynamics too."""
        network: Any = self.discriminator
        found: Tensor = network.g(self.inputs(batch)[:, : network.g_size])
        return found


class AIRL(GAIL):
    """Adversarial inverse reinforcement learning (Fu, Luo and Levine, arXiv 1710.11248), with MDPO as the learner.

    It is :class:`rlopt.GAIL`, except that the discriminator's logit is g(s, a) + gamma h(s') - h(s) - ln pi(a|s), and
    the reward is that logit. g is a reward that can be used elsewhere (:meth:`ShapedAdversary.base_reward` of
    ``adversary``).
    :class:`rlopt.agents.imitation.config.AIRLConfig` declares and explains the settings; the other arguments and the
    errors are those of :class:`rlopt.GAIL`.
    """

    @with_settings_of(GAIL, "reward_form", config=AIRLConfig)
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations, reward_form="airl", **settings)

    def _make_adversary(self, settings: AdversarySettings, observation_size: int, action_size: int) -> Adversary:
        return ShapedAdversary(settings, observation_size, action_size, self.device, self.gamma)

    def _seen(self, rollout_buffer: RolloutBuffer, rows: Rows) -> ScoredRows:
        return ScoredRows(*rows, torch.from_numpy(rollout_buffer.log_probs.reshape(-1, 1)).to(self.device))

    def _train_discriminator(self, seen: Any) -> None:
        """As GAIL's, with the probability that the policy of the rollout gives to the expert's actions."""
        shown = self._shown
        self._shown: Any = ScoredRows(
            shown.observations, shown.actions, shown.next_observations, shown.dones, self._log_probs()
        )
        super()._train_discriminator(seen)

    @torch.no_grad()
    def _log_probs(self) -> Tensor:
        """ln pi(a|s) (N, 1) of the demonstrations."""
        shown = self.demonstrations
        assert shown is not None
        self.policy.set_training_mode(False)
        observations, normalize = shown.observations, self.get_vec_normalize_env()
        if normalize is not None:
            observations = normalize.normalize_obs(observations)
        found = []
        for start in range(0, len(shown), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            part = {key: column[rows] for key, column in observations.items()} if isinstance(observations, dict) else (
                observations[rows])  # fmt: skip
            actions = torch.from_numpy(np.asarray(shown.actions[rows])).to(self.device)
            found.append(self.policy.evaluate_actions(obs_as_tensor(part, self.device), actions)[1])
        return torch.cat(found).reshape(-1, 1)
