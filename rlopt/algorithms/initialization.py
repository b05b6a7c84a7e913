"""A policy that starts from another one: of the same networks, or the clone of an expert."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlopt.errors import ConfigError

Head = Literal["squashed", "mean", "logits"]
"""What the last layer gives: the mean before a tanh, the mean in the environment's units, or logits of choices."""
CLONE_LOG_STD = -2.0
"""Of a policy that begins as a deterministic one, for its exploration: a deviation of 0.14."""


class ActorLayers(NamedTuple):
    """An actor that is a multi-layer perceptron of flat observations."""

    layers: list[tuple[Tensor, Tensor]]
    """Weight (out, in) and bias (out,) of each layer, the last one gives the action."""
    activation: type[nn.Module] | None
    """Between the layers; None where there is one layer alone."""
    head: Head
    log_std: Tensor | None = None
    """(A,), where the actor has one of its own for all states."""


def linear_layers(*modules: nn.Module) -> tuple[list[nn.Linear], type[nn.Module] | None] | None:
    """The Linear layers of ``modules`` behind one another and their activation; None of what is no such perceptron."""
    found = [part for module in modules for part in (module if isinstance(module, nn.Sequential) else [module])]
    linear = [part for part in found if isinstance(part, nn.Linear)]
    others = {type(part) for part in found if not isinstance(part, nn.Linear | nn.Flatten)}
    alternate = all(isinstance(part, nn.Linear) == (place % 2 == 0) for place, part in enumerate(found))
    if not linear or len(others) > 1 or not alternate:
        return None
    return linear, next(iter(others), None)


def begin_from(model: Any, source: Any) -> str:
    """Lets ``model`` begin with the policy of ``source``: all its networks where they are the same, else the actor.

    Optimisers begin anew. An off-policy learner of rewards acts by that policy from its first step on, in place of the
    random steps of its warm-up (WSRL, arXiv 2412.07762).

    :returns: what was taken, for people
    :raises rlopt.errors.ConfigError: other spaces, or networks of other sizes, in one line with the settings to give
    """
    if not isinstance(getattr(source, "policy", None), nn.Module):
        raise ConfigError(f"{type(source).__name__} has no network to begin from: give a run of a deep agent")
    for name in ("observation_space", "action_space"):
        if getattr(model, name) != getattr(source, name):
            raise ConfigError(f"the policy to begin from has the {name} {getattr(source, name)}, not "
                              f"{getattr(model, name)}: give a run in the same environment")  # fmt: skip
    normalised = getattr(getattr(model, "_vec_normalize_env", None), "norm_obs", False)
    if getattr(source, "observation_statistics", None) is not None or normalised:
        raise ConfigError(
            "a policy that sees normalised observations (VecNormalize) can neither start from another policy nor be "
            "the start of one: leave normalize_observations out of both"
        )
    if _computes_as(model.policy, source.policy):
        model.set_parameters({"policy": source.policy.state_dict()}, exact_match=False)
        return f"all networks{_begun(model)}"
    give, take = getattr(source, "actor_layers", None), getattr(model, "take_actor", None)
    layers = None if give is None else give()
    if layers is None or take is None:
        raise ConfigError(
            f"{type(model).__name__} cannot begin from the policy of {type(source).__name__}: their networks differ, "
            f"and not both are perceptrons of flat observations"
        )
    take(layers)
    return f"the actor; everything else begins anew{_begun(model)}"


def _begun(model: Any) -> str:
    """Lets a learner act by the policy that it was given, and stay near it; says so, and what its first steps are."""
    if not hasattr(model, "begun_from_policy"):
        return ""
    model.begin_as_now()
    near = f"; it stays near that policy (cloning_coef {model.cloning_weight:g})" if model.cloning_weight else ""
    steps = model.learning_starts
    if not steps:
        return near
    model.begun_from_policy = not model.reads_no_rewards
    whose = "its own" if model.begun_from_policy else "random all the same"
    return f"{near}; the actions of the first {steps:,} steps, before it learns, are {whose}"


_ACTS_BY = ("squash_output", "use_expln", "normalize_images")
"""Arguments of policies that decide what they do with their networks' outputs and inputs."""


def _computes_as(policy: Any, other: Any) -> bool:
    """Whether a policy with the parameters of the other one does the same."""
    shapes, parts, arguments = [], [], []
    for each in (policy, other):
        shapes.append({name: tensor.shape for name, tensor in each.state_dict().items()})
        parts.append({name: repr(module) for name, module in each.named_children()})
        given = each._get_constructor_parameters()
        arguments.append([given.get(name) for name in _ACTS_BY])
    return shapes[0] == shapes[1] and parts[0] == parts[1] and arguments[0] == arguments[1]


@torch.no_grad()
def fill(linear: list[nn.Linear], activation: type[nn.Module] | None, given: ActorLayers, head: Head) -> None:
    """Writes ``given`` into the layers of an actor.

    :raises rlopt.errors.ConfigError: other widths, activation or kind of action
    """
    widths, theirs = ([layer.out_features for layer in linear], [len(bias) for _, bias in given.layers])
    same = widths == theirs and linear[0].in_features == given.layers[0][0].shape[1]
    if not same or activation is not given.activation:
        name = "none" if given.activation is None else given.activation.__name__.lower()
        arch = " ".join(map(str, theirs[:-1]))
        raise ConfigError(
            f"the policy to begin from has hidden layers {arch or 'none'} with {name}: give --net-arch {arch} "
            f"--activation-fn {name}, or train it anew with those of this agent"
        )
    if head != given.head:
        raise ConfigError(
            f"the policy to begin from gives a {given.head} action and this one a {head}: begin a squashed one (sac, "
            "off_policy_mdpo, ailboost, dac) from bc or one of these, and ppo, mdpo and gail from one another"
        )
    for layer, (weight, bias) in zip(linear, given.layers, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
