"""Which parameters each of MDPO's two phases trains, and which the value phase must leave unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn


def phase_parameters(policy: ActorCriticPolicy) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of the policy phase and of the value phase.

    What the policy depends on, such as a features extractor that both networks share, is trained by the policy phase
    alone: the critic never moves the policy.
    """
    body = policy.mlp_extractor
    of_policy = _ids([policy.action_net, policy.pi_features_extractor, getattr(body, "policy_net", None)])
    if isinstance(getattr(policy, "log_std", None), nn.Parameter):
        of_policy.add(id(policy.log_std))
    of_value = _ids([policy.value_net, policy.vf_features_extractor, getattr(body, "value_net", None)])
    everything = list(policy.parameters())
    others = [parameter for parameter in everything if id(parameter) not in of_policy | of_value]
    if others:  # networks that the user has written and named
        of_policy |= {id(parameter) for parameter in _reached_by_log_prob(policy, others)}
    ours = [parameter for parameter in everything if id(parameter) in of_policy]
    return ours, [parameter for parameter in everything if id(parameter) not in of_policy]


def former_value_parameters(policy: ActorCriticPolicy) -> list[nn.Parameter]:
    """What the value phase trained in version 0.1: what both networks share, too."""
    apart = [] if policy.share_features_extractor else [policy.pi_features_extractor]
    of_policy = _ids([policy.action_net, getattr(policy.mlp_extractor, "policy_net", None), *apart])
    log_std = getattr(policy, "log_std", None)
    return [p for p in policy.parameters() if id(p) not in of_policy and p is not log_std]


def _ids(modules: list[Any]) -> set[int]:
    return {id(parameter) for module in modules if module is not None for parameter in module.parameters()}


def _reached_by_log_prob(policy: ActorCriticPolicy, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Those of ``parameters`` that log pi depends on."""
    observations: Any = create_empty_array(policy.observation_space, 1)
    flags, training = [parameter.requires_grad for parameter in parameters], policy.training
    policy.set_training_mode(False)
    for parameter in parameters:
        parameter.requires_grad_(True)  # one that is frozen now may be thawed
    with torch.enable_grad():
        distribution = policy.get_distribution(obs_as_tensor(observations, policy.device))
        log_prob = distribution.log_prob(distribution.get_actions(deterministic=True))
        found = torch.autograd.grad(log_prob.sum(), parameters, allow_unused=True)
    policy.set_training_mode(training)
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag)
    return [parameter for parameter, gradient in zip(parameters, found, strict=True) if gradient is not None]


def set_critic_training_mode(policy: ActorCriticPolicy, value_parameters: list[nn.Parameter]) -> None:
    """Training mode for the critic alone: what it shares with the policy keeps its running statistics as they are."""
    policy.set_training_mode(True)
    policy.pi_features_extractor.train(False)
    own = {id(parameter) for parameter in value_parameters}
    for module in policy.modules():
        if any(id(parameter) not in own for parameter in module.parameters(recurse=False)):
            module.training = False


@contextmanager
def scaled_down(layer: nn.Module, scale: float) -> Iterator[None]:
    """``layer`` with 1 / ``scale`` of its output within, and its unit of before afterwards.

    :param layer: a linear one, unless ``scale`` is 1
    :param scale: a power of two, so that nothing is rounded
    """
    tensors = list(layer.parameters()) if scale != 1.0 else []
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(1 / scale)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor in tensors:
                tensor.mul_(scale)
