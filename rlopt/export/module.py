"""A trained policy's deterministic action as one torch module of raw observations, for export to other runtimes."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from rlopt.errors import ExportError


class ActingModule(nn.Module):
    """``forward(*observations)`` gives what ``model.predict(..., deterministic=True)`` gives.

    Inputs are raw observations as tensors (B, ...) in the space's own type, one for each part of a Dict space in its
    order. The output is (B, ...): scaled to the bounds or clipped to them for Box actions, int64 for Discrete and
    MultiDiscrete ones, floats 0 and 1 for MultiBinary. Where the model normalises observations, the module does.
    Images are taken as the model sees them, channels first, or with ``raw_frames`` as cameras give them, (B, H, W, C).

    :param model: a Stable-Baselines3 algorithm whose policy is an ActorCriticPolicy, SAC's or DQN's, or says by
        ``predicts_in_torch = True`` that its ``_predict`` is a function of tensors, as the offline learners' do
    :param raw_frames: whether images come with their channels last
    :raises rlopt.errors.ExportError: its policy is of another kind
    """

    low: Tensor
    high: Tensor

    def __init__(self, model: Any, raw_frames: bool = False) -> None:
        super().__init__()
        self.policy: BasePolicy = model.policy
        if not _is_known(self.policy):
            raise ExportError(
                f"the policy {type(self.policy).__name__} of {type(model).__name__} is not one whose action can be "
                "written as a function of observations: export takes Stable-Baselines3's ActorCriticPolicy, SACPolicy "
                "and DQNPolicy, and the offline learners' policies"
            )
        self.policy.set_training_mode(False)
        self.observation_space: spaces.Space[Any] = model.observation_space
        self.action_space: spaces.Space[Any] = model.action_space
        self.names = list(model.observation_space.spaces) if self._is_dict else ["observation"]
        self._transposed = [name for name, part in self._parts.items() if raw_frames and is_image_space(part)]
        self._normalized: list[str] = []
        self._clip = 0.0
        self._remember_normalization(normalizer_of(model))
        if isinstance(self.action_space, spaces.Box):
            self.register_buffer("low", torch.as_tensor(self.action_space.low))
            self.register_buffer("high", torch.as_tensor(self.action_space.high))

    @property
    def _is_dict(self) -> bool:
        return isinstance(self.observation_space, spaces.Dict)

    @property
    def _parts(self) -> dict[str, spaces.Space[Any]]:
        space = self.observation_space
        return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}

    @property
    def input_space(self) -> spaces.Space[Any]:
        """What the module takes: the model's observations, its images with the channels last if they come raw."""
        parts = {
            name: channels_last(part) if name in self._transposed else part  # type: ignore[arg-type]
            for name, part in self._parts.items()
        }
        return spaces.Dict(parts) if self._is_dict else parts["observation"]

    def _remember_normalization(self, normalizer: Any) -> None:
        if normalizer is None:
            return
        self._clip = float(normalizer.clip_obs)
        statistics = normalizer.obs_rms if self._is_dict else {"observation": normalizer.obs_rms}
        self._normalized = [name for name in self.names if name in statistics]
        for name in self._normalized:
            own = statistics[name]
            index = self.names.index(name)
            # In float64, as VecNormalize computes it.
            self.register_buffer(f"mean_{index}", torch.as_tensor(own.mean, dtype=torch.float64))
            deviation = (torch.as_tensor(own.var, dtype=torch.float64) + normalizer.epsilon).sqrt()
            self.register_buffer(f"deviation_{index}", deviation)

    def forward(self, *observations: Tensor) -> Tensor:
        parts = dict(zip(self.names, observations, strict=True))
        for name in self._transposed:
            parts[name] = parts[name].permute(0, 3, 1, 2)
        for name in self._normalized:
            index = self.names.index(name)
            mean, deviation = getattr(self, f"mean_{index}"), getattr(self, f"deviation_{index}")
            scaled = (parts[name].double() - mean) / deviation
            parts[name] = scaled.clamp(-self._clip, self._clip).float()
        actions = deterministic_action(self.policy, parts if self._is_dict else parts["observation"])
        actions = actions.reshape(-1, *(self.action_space.shape or ()))
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(actions, self.low), self.high)


def channels_last(space: spaces.Box) -> spaces.Box:
    """The space of images (H, W, C) for one of images (C, H, W)."""
    low, high = (np.moveaxis(bound, 0, -1) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=space.dtype)


def normalizer_of(model: Any) -> Any:
    """The VecNormalize whose statistics of observations belong to ``model``; None if there is none."""
    found = getattr(model, "observation_statistics", None)
    if found is None:
        found = model.get_vec_normalize_env()
    return found if found is not None and found.norm_obs else None


def deterministic_action(policy: BasePolicy, observations: Any) -> Tensor:
    """The policy's most likely action (B, ...) for raw observations, before it is scaled or clipped."""
    if isinstance(policy, ActorCriticPolicy):
        features = BasePolicy.extract_features(policy, observations, policy.pi_features_extractor)
        outputs = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return _mode(policy.action_dist, outputs)
    actor: Any = getattr(policy, "actor", None)
    if isinstance(actor, Actor):
        return actor.get_action_dist_params(observations)[0].tanh()
    actions: Tensor = policy._predict(observations, deterministic=True)
    return actions


def _mode(distribution: distributions.Distribution, outputs: Tensor) -> Tensor:
    """The most likely action for a policy network's outputs (B, n)."""
    if isinstance(distribution, distributions.CategoricalDistribution):
        return outputs.argmax(dim=1)
    if isinstance(distribution, distributions.MultiCategoricalDistribution):
        split = outputs.split([int(size) for size in distribution.action_dims], dim=1)
        return torch.stack([part.argmax(dim=1) for part in split], dim=1)
    if isinstance(distribution, distributions.BernoulliDistribution):
        return (outputs > 0).to(outputs.dtype)
    squashed = getattr(distribution, "bijector", None) is not None
    return outputs.tanh() if squashed else outputs


def _is_known(policy: BasePolicy) -> bool:
    if isinstance(policy, ActorCriticPolicy):
        overrides = [name for name in ("_predict", "get_distribution") if _overrides(policy, ActorCriticPolicy, name)]
        return not overrides
    if isinstance(getattr(policy, "actor", None), Actor):
        return True
    if isinstance(policy, DQNPolicy):
        return not _overrides(policy, DQNPolicy, "_predict")
    return bool(getattr(policy, "predicts_in_torch", False))


def _overrides(policy: BasePolicy, base: type, name: str) -> bool:
    return getattr(type(policy), name) is not getattr(base, name)
