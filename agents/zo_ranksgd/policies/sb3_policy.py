"""Stable-Baselines3 policies as flat vectors: the parameters that decide the action, no others."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, holds_images
from rlopt.agents.zo_ranksgd.policies.vector import Actions, Layer, LinearPolicy, NetworkPolicy, PolicyVector
from rlopt.algorithms.resumable import named_policy_kwargs
from rlopt.errors import ConfigError, SpaceError, unknown_name
from rlopt.nn.encoders import channels_first
from rlopt.state.isolate import isolated, seed_everything

POLICIES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": ActorCriticPolicy,
    "CnnPolicy": ActorCriticCnnPolicy,
    "MultiInputPolicy": MultiInputActorCriticPolicy,
}
_NUMPY: dict[type[nn.Module], Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    nn.Tanh: np.tanh,
    nn.ReLU: lambda x: np.maximum(x, 0),
    nn.Identity: lambda x: x,
}


def make_policy(
    policy: str | type[BasePolicy] | BasePolicy,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    bias: bool,
    policy_kwargs: Mapping[str, Any] | None,
    seed: int,
    device: str | torch.device,
) -> tuple[Any, PolicyVector]:
    """The policy that ``policy`` names (or is), and its vector.

    :param policy: ``LinearPolicy``, one of :data:`POLICIES`, a class of Stable-Baselines3 policies, or a policy
    :param bias: of a linear policy
    :param policy_kwargs: of a Stable-Baselines3 policy
    :param seed: seed of the initial parameters; global random states are left alone
    """
    if policy == "LinearPolicy":
        if policy_kwargs:
            raise ConfigError("policy_kwargs are for networks: a LinearPolicy has none")
        linear = LinearPolicy(observation_space, action_space, bias)
        return linear, linear
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise unknown_name("policy", policy, ["LinearPolicy", *POLICIES])
        policy = POLICIES[policy]
    observation_space = channels_first(observation_space)
    if isinstance(policy, type):
        with isolated(None):
            seed_everything(seed)
            try:
                # The learning rate is that of an optimiser which is never used.
                arguments = (observation_space, action_space, lambda _: 0.0)
                module = policy(*arguments, **_without_critic(policy, named_policy_kwargs(policy_kwargs)))
            except (AssertionError, NotImplementedError, ValueError) as error:
                raise SpaceError(f"{policy.__name__} cannot be made: {' '.join(str(error).split())}") from error
        policy = module.to(device)
    elif (policy.observation_space, policy.action_space) != (observation_space, action_space):
        raise SpaceError("the policy was made for other spaces than the environment has")
    policy.set_training_mode(False)
    return policy, _vector_of(policy)


def actor_only(policy_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of a policy without the widths of a value network, which is not searched."""
    if policy_kwargs is None:
        return None
    net_arch = policy_kwargs.get("net_arch")
    own = {"net_arch": net_arch["pi"]} if isinstance(net_arch, Mapping) and "pi" in net_arch else {}
    return {**policy_kwargs, **own}


def _without_critic(policy: type[BasePolicy], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The value network of an actor-critic policy is never used: it gets no hidden layers."""
    net_arch = kwargs.get("net_arch")
    if issubclass(policy, ActorCriticPolicy) and isinstance(net_arch, (list, tuple)):
        return {**kwargs, "net_arch": {"pi": list(net_arch), "vf": []}}
    return kwargs


def _vector_of(policy: BasePolicy) -> PolicyVector:
    if getattr(policy, "use_sde", False):
        raise ConfigError("gSDE explores by noise, which a search of parameters has no use for: leave use_sde out")
    # SAC's squashing is in its distribution.
    plain = not holds_images(policy.observation_space) and not hasattr(getattr(policy, "actor", None), "log_std")
    layers = _layers(policy) if plain else None
    if layers is None:
        return ModulePolicy(policy)
    return NetworkPolicy(policy.action_space, layers, _flat(actor_parameters(policy)), policy.squash_output)


def actor_modules(policy: BasePolicy) -> list[tuple[str, nn.Module]]:
    """The parts of ``policy`` that compute the deterministic action, by name, in their order.

    :raises rlopt.errors.ConfigError: for a policy that has no such parts
    """
    if isinstance(policy, ActorCriticPolicy):
        extractor = "features_extractor" if policy.share_features_extractor else "pi_features_extractor"
        names = [extractor, "mlp_extractor.policy_net", "action_net"]
        try:
            return [(name, policy.get_submodule(name)) for name in names]
        except AttributeError as error:
            raise ConfigError(f"{type(policy).__name__} has no {names[1]} to search: {error}") from None
    actor = getattr(policy, "actor", None)
    if isinstance(actor, nn.Module):
        # SAC's deviation decides no deterministic action.
        return [(f"actor.{name}", part) for name, part in actor.named_children() if name != "log_std"]
    network = getattr(policy, "q_net", None)
    if isinstance(network, nn.Module):
        return [(f"q_net.{name}", part) for name, part in network.named_children()]
    raise ConfigError(f"{type(policy).__name__} has no actor to search: give an actor-critic policy")


def actor_parameters(policy: BasePolicy) -> dict[str, nn.Parameter]:
    """The parameters of :func:`actor_modules` by their full name, each once."""
    found: dict[str, nn.Parameter] = {}
    for prefix, part in actor_modules(policy):
        for name, parameter in part.named_parameters():
            if not any(parameter is other for other in found.values()):
                found[f"{prefix}.{name}"] = parameter
    return found


def load_parameters(policy: BasePolicy, vector: FloatArray) -> None:
    """Puts a flat vector into the parameters of the actor."""
    parameters = actor_parameters(policy).values()
    first = next(iter(parameters))
    with torch.no_grad():
        flat = torch.tensor(vector, dtype=first.dtype, device=first.device)
        nn.utils.vector_to_parameters(flat, parameters)


def _flat(parameters: Mapping[str, nn.Parameter]) -> FloatArray:
    vector = nn.utils.parameters_to_vector(parameters.values())
    return vector.detach().cpu().numpy().astype(np.float64)


def _layers(policy: BasePolicy) -> tuple[Layer, ...] | None:
    """The layers of an actor that is a fully connected network; None for any other."""
    layers: list[Layer] = []
    for _, part in actor_modules(policy):
        if type(part) is FlattenExtractor or (type(part) is CombinedExtractor and _only_vectors(part)):
            continue
        for module in part.modules():
            if isinstance(module, nn.Sequential):
                continue
            if type(module) is nn.Linear:
                bias = module.bias is not None
                layers.append(Layer(module.in_features, module.out_features, bias, _NUMPY[nn.Identity]))
            elif type(module) in _NUMPY and layers:
                last = layers[-1]
                layers[-1] = Layer(last.inputs, last.outputs, last.has_bias, _NUMPY[type(module)])
            else:
                return None
    return tuple(layers) or None


def _only_vectors(extractor: CombinedExtractor) -> bool:
    return all(isinstance(part, nn.Flatten) for part in extractor.extractors.values())


class ModulePolicy:
    """Any Stable-Baselines3 policy, many of them acting side by side by ``torch.func.vmap`` on the policy's device.

    It sees raw observations. Sums may be ordered otherwise for other numbers of policies, so the last bits of an action
    can differ from those of the policy alone.
    """

    takes_features = False

    def __init__(self, policy: BasePolicy) -> None:
        self.policy = policy
        self.observation_space, self.action_space = policy.observation_space, policy.action_space
        self.actions = Actions(policy.action_space, policy.squash_output)
        self._acting = _Acting(policy)
        searched = {id(parameter) for parameter in actor_parameters(policy).values()}
        self._parameters = {n: p for n, p in self._acting.named_parameters() if id(p) in searched}
        self.dimension = sum(parameter.numel() for parameter in self._parameters.values())

        def run(parameters: dict[str, torch.Tensor], observation: Any) -> torch.Tensor:
            one = {key: part[None] for key, part in observation.items()} if isinstance(observation, dict) else None
            batch = observation[None] if one is None else one
            return torch.func.functional_call(self._acting, parameters, (batch,))[0]

        self._run = torch.func.vmap(run, randomness="different")
        self._run_one = torch.func.vmap(run, in_dims=(None, 0), randomness="different")

    def initial(self) -> FloatArray:
        """``[d]`` float64: the policy's parameters as they are now."""
        return _flat(self._parameters)

    def prepare(self, parameters: FloatArray) -> dict[str, torch.Tensor]:
        """Tensors ``[n, *shape]`` by the parameters' names, on the policy's device, of ``parameters`` ``[n, d]``."""
        first = next(iter(self._parameters.values()))
        values = torch.tensor(parameters, dtype=first.dtype, device=first.device)
        stacked, position = {}, 0
        for name, parameter in self._parameters.items():
            part = values[:, position : position + parameter.numel()]
            stacked[name] = part.reshape(len(parameters), *parameter.shape)
            position += parameter.numel()
        return stacked

    def act(self, prepared: dict[str, torch.Tensor], inputs: Any) -> npt.NDArray[Any]:
        """Actions ``[n, *action]`` of n policies on raw observations ``[n, ...]``, one each; one policy acts on all."""
        with torch.no_grad():
            observations = self.policy.obs_to_tensor(inputs)[0]
            if len(next(iter(prepared.values()))) == 1:
                outputs = self._run_one({name: value[0] for name, value in prepared.items()}, observations)
            else:
                outputs = self._run(prepared, observations)
        return self.actions.of(outputs.cpu().numpy())


class _Acting(nn.Module):
    """The parts of a policy whose forward pass is the output that its deterministic action is made of."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.space = policy.observation_space
        self.head: nn.Module | None = None
        if isinstance(policy, ActorCriticPolicy):
            # Stable-Baselines3 knows one extractor by several names, which functional_call does not restore.
            self.extractor, self.body, self.head = (part for _, part in actor_modules(policy))
        else:
            name = "actor" if hasattr(policy, "actor") else "q_net"
            self.body = policy.get_submodule(name)
        self.options = {"deterministic": True} if hasattr(self.body, "log_std") else {}

    def forward(self, observations: Any) -> torch.Tensor:
        output: torch.Tensor
        if self.head is None:
            output = self.body(observations, **self.options)
        else:
            output = self.head(self.body(self.extractor(preprocess_obs(observations, self.space))))
        return output
