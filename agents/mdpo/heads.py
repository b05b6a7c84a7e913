"""How on-policy MDPO asks a Stable-Baselines3 actor-critic policy for actions, log-probabilities and divergences.

Shapes: B batch, A action dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import Tensor

from rlopt.agents.mdpo.divergences import Bernoulli, Categorical, Factors, Gaussian
from rlopt.errors import SpaceError
from rlopt.rollout import Observations


class Evaluation(NamedTuple):
    """What the loss needs to know of the policy at a batch of states and actions."""

    factors: Factors
    log_prob: Tensor
    """[B]"""
    entropy: Tensor
    """[B]; minus the log-probability where the entropy has no closed form"""


class DistributionHead:
    """Any policy, through Stable-Baselines3's distribution objects."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def sample(self, observations: Observations) -> Tensor:
        """Actions [B, *action shape]."""
        actions = self.policy.get_distribution(observations).get_actions()
        return actions.reshape(-1, *self.policy.action_space.shape)  # type: ignore[misc]

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """[B]"""
        return self.policy.get_distribution(observations).log_prob(actions)

    def evaluate(self, observations: Observations, actions: Tensor) -> Evaluation:
        """The policy at these states and actions, with gradient."""
        distribution = self.policy.get_distribution(observations)
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        return Evaluation(factors(distribution), log_prob, -log_prob if entropy is None else entropy)


class GaussianHead:
    """A diagonal Gaussian whose standard deviation does not depend on the state, in few tensor operations."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def sample(self, observations: Observations) -> Tensor:
        """Actions [B, *action shape], from the same random numbers as ``Normal.rsample``."""
        mean = self._mean(observations)
        actions = mean + torch.empty_like(mean).normal_() * self.policy.log_std.exp()
        return actions.reshape(-1, *self.policy.action_space.shape)  # type: ignore[misc]

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """[B]"""
        return self.evaluate(observations, actions).log_prob

    def evaluate(self, observations: Observations, actions: Tensor) -> Evaluation:
        """The policy at these states and actions, with gradient."""
        mean, log_std = self._mean(observations), self.policy.log_std
        std = log_std.exp()
        nats = log_std.sum() + 0.5 * math.log(2.0 * math.pi) * len(log_std)
        log_prob = ((actions - mean) / std).square().sum(dim=-1) * -0.5 - nats
        entropy = (nats + 0.5 * len(log_std)).expand(len(mean))
        return Evaluation(Gaussian(mean, std), log_prob, entropy)

    def _mean(self, observations: Observations) -> Tensor:
        policy = self.policy
        features = BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
        return policy.action_net(policy.mlp_extractor.forward_actor(features))


def action_head(policy: ActorCriticPolicy) -> GaussianHead | DistributionHead:
    """The quickest head that computes what ``policy.get_distribution`` does."""
    own = ("get_distribution", "_get_action_dist_from_latent")
    unchanged = all(getattr(type(policy), name) is getattr(ActorCriticPolicy, name) for name in own)
    if unchanged and type(policy.action_dist) is DiagGaussianDistribution:
        return GaussianHead(policy)
    return DistributionHead(policy)


def factors(distribution: Distribution) -> Factors:
    """The parameters of a Stable-Baselines3 action distribution, from which divergences have closed forms.

    The KL is invariant to the tanh of a squashed Gaussian, so the parameters before squashing are returned.
    """
    inner = distribution.distribution
    if isinstance(inner, torch.distributions.Normal):
        return Gaussian(inner.mean, inner.stddev)
    if isinstance(inner, torch.distributions.Categorical):
        return Categorical((inner.logits,))
    if isinstance(inner, list):
        return Categorical(tuple(factor.logits for factor in inner))  # type: ignore[attr-defined]
    if isinstance(inner, torch.distributions.Bernoulli):
        return Bernoulli(inner.logits)
    raise SpaceError(f"MDPO has no divergence for {type(distribution).__name__}: use one of Stable-Baselines3's")
