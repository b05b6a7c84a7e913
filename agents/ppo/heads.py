"""How an on-policy agent asks a Stable-Baselines3 actor-critic policy for actions, log-probabilities and values.

Shapes: B batch, A action dimensions.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from rlopt.agents.ppo.distributions import Bernoulli, Categorical, Factors, Gaussian
from rlopt.algorithms.rollout import Observations
from rlopt.errors import SpaceError


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
        return self.evaluate(observations, actions).log_prob

    def evaluate(self, observations: Observations, actions: Tensor) -> Evaluation:
        """The policy at these states and actions, with gradient."""
        distribution = self.policy.get_distribution(observations)
        found = factors(distribution)
        if type(distribution) is BernoulliDistribution:  # torch's gives NaN for logits of -inf
            return Evaluation(found, found.log_prob(actions), found.entropy())
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        return Evaluation(found, log_prob, -log_prob if entropy is None else entropy)


class ClosedFormHead(DistributionHead):
    """One of Stable-Baselines3's distributions as a function of its parameters alone, which can be compiled.

    Its distribution objects keep the last parameters in themselves. Only drawing actions is left to them.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__(policy)
        self._latent = _network(policy, policy.pi_features_extractor, policy.mlp_extractor.policy_net)

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """[B]"""
        return self.evaluate(observations, actions).log_prob

    def evaluate(self, observations: Observations, actions: Tensor) -> Evaluation:
        """The policy at these states and actions, with gradient."""
        kind, latent = self.policy.action_dist, self._latent(observations)
        outputs = self.policy.action_net(latent)
        if isinstance(kind, StateDependentNoiseDistribution):
            return _noise_evaluation(kind, outputs, self.policy.log_std, latent, actions)
        if isinstance(kind, BernoulliDistribution):
            found: Factors = Bernoulli(outputs)
        elif isinstance(kind, MultiCategoricalDistribution):
            found = Categorical(outputs.split([int(n) for n in kind.action_dims], dim=-1))
        else:
            found = Categorical((outputs,))
        return Evaluation(found, found.log_prob(actions), found.entropy())


def _noise_evaluation(
    kind: StateDependentNoiseDistribution, mean: Tensor, log_std: Tensor, latent: Tensor, actions: Tensor
) -> Evaluation:
    """State-dependent exploration (gSDE, Raffin et al., arXiv 2005.05719) with means [B, A] at ``actions`` [B, A]."""
    features = latent if kind.learn_features else latent.detach()
    variance = features.square() @ kind.get_std(log_std).square()
    gaussian = Gaussian(mean, (variance + kind.epsilon).sqrt())
    if kind.bijector is None:
        return Evaluation(gaussian, gaussian.log_prob(actions), gaussian.entropy())
    unsquashed = kind.bijector.inverse(actions)
    log_prob = gaussian.log_prob(unsquashed) - kind.bijector.log_prob_correction(unsquashed).sum(dim=-1)
    return Evaluation(gaussian, log_prob, -log_prob)


class GaussianHead(DistributionHead):
    """A diagonal Gaussian whose standard deviation does not depend on the state, in few tensor operations."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__(policy)
        body = policy.mlp_extractor.policy_net
        self._mean = _network(policy, policy.pi_features_extractor, body, policy.action_net)

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
        return gaussian_evaluation(self._mean(observations), self.policy.log_std, actions)


def gaussian_evaluation(mean: Tensor, log_std: Tensor, actions: Tensor) -> Evaluation:
    """The diagonal Gaussian of means [B, A] and standard deviations exp(``log_std``) [A] at ``actions`` [B, A]."""
    std = log_std.exp()
    nats = log_std.sum() + 0.5 * math.log(2.0 * math.pi) * len(log_std)
    log_prob = ((actions - mean) / std).square().sum(dim=-1) * -0.5 - nats
    entropy = (nats + 0.5 * len(log_std)).expand(len(mean))
    return Evaluation(Gaussian(mean, std), log_prob, entropy)


def action_head(policy: ActorCriticPolicy) -> DistributionHead:
    """The quickest head that computes what ``policy.get_distribution`` does."""
    own = ("get_distribution", "_get_action_dist_from_latent")
    policy = uncompiled(policy)
    unchanged = all(getattr(type(policy), name) is getattr(ActorCriticPolicy, name) for name in own)
    if unchanged and type(policy.mlp_extractor) is MlpExtractor:
        if type(policy.action_dist) is DiagGaussianDistribution:
            return GaussianHead(policy)
        if type(policy.action_dist) in _CLOSED_FORMS:
            return ClosedFormHead(policy)
    return DistributionHead(policy)


_CLOSED_FORMS = (
    BernoulliDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)


def uncompiled(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """The policy itself, where ``torch.compile`` has put a module around it."""
    inner: ActorCriticPolicy = getattr(policy, "_orig_mod", policy)
    return inner


def value_function(policy: ActorCriticPolicy, train_shared: bool) -> Callable[[Observations], Tensor]:
    """What ``policy.predict_values`` computes: observations of B states to [B, 1].

    :param train_shared: whether its gradient reaches a features extractor that the policy uses too
    """
    policy = uncompiled(policy)
    body = policy.mlp_extractor
    if type(policy).predict_values is not ActorCriticPolicy.predict_values or type(body) is not MlpExtractor:
        return policy.predict_values
    extractor = policy.vf_features_extractor
    train_extractor = train_shared or not policy.share_features_extractor
    return _network(policy, extractor, body.value_net, policy.value_net, train_extractor=train_extractor)


def _network(
    policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, *modules: nn.Module, train_extractor: bool = True
) -> Callable[[Observations], Tensor]:
    """The features of ``extractor`` and then ``modules``, without the calls around calls that small networks feel."""
    space = policy.observation_space
    flatten = type(extractor) is FlattenExtractor and isinstance(space, spaces.Box) and not is_image_space(space)
    flatten = flatten and not any(map(_is_hooked, extractor.modules()))
    layers, preprocess = _layers(modules), _preprocessing(space, policy.normalize_images)

    def forward(observations: Observations) -> Tensor:
        values = observations.float().flatten(1) if flatten else extractor(preprocess(observations))  # type: ignore[union-attr]
        if not train_extractor:
            values = values.detach()
        for layer in layers:
            values = layer(values)
        return values

    return forward


def _preprocessing(space: spaces.Space, normalize_images: bool) -> Callable[[Any], Any]:
    """As Stable-Baselines3's ``preprocess_obs``, which reads arrays of the space and so cannot be compiled."""
    if isinstance(space, spaces.Dict):
        parts = {key: _preprocessing(part, normalize_images) for key, part in space.spaces.items()}
        return lambda values: {key: part(values[key]) for key, part in parts.items()}
    if isinstance(space, spaces.Discrete):
        return functools.partial(_one_hot, n=int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec]
        return lambda values: torch.cat([_one_hot(values[..., i], n) for i, n in enumerate(sizes)], dim=-1)
    if normalize_images and is_image_space(space):
        return lambda values: values.float() / 255.0
    return lambda values: values.float()


def _one_hot(values: Tensor, n: int) -> Tensor:
    return (values.unsqueeze(-1) == torch.arange(n, device=values.device)).float()


def _layers(modules: Iterable[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """The forward functions of ``modules``, containers opened; a module with hooks is called whole."""
    found: list[Callable[[Tensor], Tensor]] = []
    for module in modules:
        if _is_hooked(module):
            found.append(module)
        elif type(module) is nn.Sequential:
            found.extend(_layers(module))
        else:
            found.append(module.forward)
    return found


def _is_hooked(module: nn.Module) -> bool:
    kinds = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(kinds)


def factors(distribution: Distribution) -> Factors:
    """The parameters of a Stable-Baselines3 action distribution, from which divergences have closed forms.

    The KL is invariant to the tanh of a squashed Gaussian, so the parameters before squashing are returned.

    :raises rlopt.errors.SpaceError: for a distribution that is none of Stable-Baselines3's
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
    raise SpaceError(
        f"{type(distribution).__name__} has no closed form here: use one of Stable-Baselines3's distributions"
    )


def policy_obstacle(policy: ActorCriticPolicy) -> str | None:
    """Why ``policy`` is not a function of tensors, in words; None if it is one."""
    if type(action_head(policy)) is DistributionHead:
        return "the policy has an action distribution of its own"
    if value_function(policy, train_shared=False) == policy.predict_values:
        return "the policy has a predict_values of its own"
    return None
