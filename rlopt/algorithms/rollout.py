"""On-policy collection: the same rollout as Stable-Baselines3's loop, with less work per step.

A step takes one pass through the actor and writes straight into the rollout buffer. Values, log-probabilities and the
bootstrap of episodes cut by a time limit are computed for the whole rollout at once, after its last step.
Shapes: T steps, N environments, A action dimensions.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlopt.algorithms.finite import check_step

Observations = Tensor | dict[str, Tensor]
Cut = Iterable[tuple[Sequence[int], Sequence[int], Observations]]
Numbers = TypeVar("Numbers", np.ndarray, Tensor)

EVALUATION_ROWS = 4096
"""Rows of a rollout that are evaluated in one pass, so that memory stays bounded with image observations."""


class Actor(Protocol):
    """How a policy acts and what it thinks of actions; both without gradient in :func:`collect`."""

    def sample(self, observations: Observations) -> Tensor:
        """Actions [N, *action shape], drawn as Stable-Baselines3's ``policy(observations)`` draws them."""

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """Log-probabilities [B] of actions [B, A], or [B] for Discrete actions."""


def can_collect(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> bool:
    """Whether :func:`collect` gathers what Stable-Baselines3's loop would, in less time.

    Not with a buffer class or a forward pass of the user's own, and not where action and value share a features
    extractor that has parameters: one pass a step then serves both.
    """
    kind = type(getattr(policy, "_orig_mod", policy))  # what torch.compile has put around it calls its methods
    own_forward = any(
        getattr(kind, name) is not getattr(ActorCriticPolicy, name) for name in ("forward", "extract_features")
    )
    shared = policy.share_features_extractor and any(True for _ in policy.features_extractor.parameters())
    return type(buffer) in (RolloutBuffer, DictRolloutBuffer) and not own_forward and not shared


def collect(
    model: OnPolicyAlgorithm, actor: Actor, env: VecEnv, callback: BaseCallback, buffer: RolloutBuffer, n_steps: int
) -> bool:
    """Fills ``buffer`` with ``n_steps`` of every environment; False if the callback stopped before.

    Callbacks find the local variables of Stable-Baselines3's loop, but for ``values`` and ``log_probs``: those are in
    the buffer when the rollout ends.

    :param buffer: with room for ``n_steps``; reset first
    :raises rlopt.errors.NonFiniteOutcomeError: at the first NaN or infinite observation or reward
    :raises rlopt.errors.OutcomeError: at the first observations or rewards of another shape
    """
    policy = model.policy
    policy.set_training_mode(False)
    buffer.reset()
    if model.use_sde:
        policy.reset_noise(env.num_envs)
    callback.on_rollout_start()
    constant = {"self": model, "env": env, "callback": callback, "rollout_buffer": buffer, "n_rollout_steps": n_steps}
    cut: list[tuple[int, int, Any]] = []
    for step in range(n_steps):
        if model.use_sde and model.sde_sample_freq > 0 and step % model.sde_sample_freq == 0:
            policy.reset_noise(env.num_envs)
        observations, starts = model._last_obs, model._last_episode_starts
        with torch.no_grad():
            obs_tensor = obs_as_tensor(observations, model.device)  # type: ignore[arg-type]
            actions = actor.sample(obs_tensor).cpu().numpy()
        clipped_actions = within_bounds(actions, policy)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        check_step(
            new_obs, rewards, dones, infos, model.num_timesteps + env.num_envs, env.observation_space, env.num_envs
        )
        model.num_timesteps += env.num_envs
        callback.update_locals(
            {
                **constant,
                "n_steps": step,
                "obs_tensor": obs_tensor,
                "actions": actions,
                "clipped_actions": clipped_actions,
                "new_obs": new_obs,
                "rewards": rewards,
                "dones": dones,
                "infos": infos,
            }
        )
        if not callback.on_step():
            finish_step(model, callback)
            return False
        model._update_info_buffer(infos, dones)
        for index in np.flatnonzero(dones).tolist():
            terminal = infos[index].get("terminal_observation")
            if terminal is not None and infos[index].get("TimeLimit.truncated", False):
                cut.append((step, index, terminal))
        _store(buffer, observations, actions, rewards, starts)
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
    ends = []
    for start in range(0, len(cut), EVALUATION_ROWS):
        steps, indices, terminal = zip(*cut[start : start + EVALUATION_ROWS], strict=True)
        ends.append((steps, indices, policy.obs_to_tensor(_stacked(terminal))[0]))
    complete(model, actor, buffer, obs_as_tensor(model._last_obs, model.device), ends)  # type: ignore[arg-type]
    callback.update_locals({"n_steps": n_steps})
    callback.on_rollout_end()
    return True


def finish_step(model: BaseAlgorithm, callback: BaseCallback) -> None:
    """Completes the step at which ``callback`` has stopped training, which Stable-Baselines3's loops leave half done.

    A later ``learn`` that continues would take the observation before that step for the current one, and the transition
    would be missing from the replay buffer.

    :param callback: whose ``locals`` are those of the loop
    """
    seen = callback.locals
    dones, infos = seen["dones"], seen["infos"]
    model._update_info_buffer(infos, dones)
    if isinstance(model, OffPolicyAlgorithm):
        buffer, actions, noise = seen["replay_buffer"], seen["buffer_actions"], seen["action_noise"]
        model._store_transition(buffer, actions, seen["new_obs"], seen["rewards"], dones, infos)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model._on_step()
        for index in np.flatnonzero(dones).tolist():
            model._episode_num += 1
            if noise is not None:
                noise.reset(**({"indices": [index]} if len(dones) > 1 else {}))
    model._last_obs = seen["new_obs"]
    model._last_episode_starts = dones


def within_bounds(actions: np.ndarray, policy: ActorCriticPolicy) -> np.ndarray:
    """The policy's actions [N, *action shape] as the environment takes them: Box actions rescaled or clipped."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    return np.minimum(np.maximum(actions, space.low), space.high)


def flat(values: Any, device: torch.device) -> Any:
    """[T, N, ...] arrays of a rollout buffer as [T*N, ...] tensors on the device; on the CPU they share the memory."""
    if isinstance(values, dict):
        return {key: flat(value, device) for key, value in values.items()}
    return torch.as_tensor(values, device=device).reshape(-1, *values.shape[2:])


def flat_actions(buffer: RolloutBuffer, device: torch.device) -> Tensor:
    """The actions of a rollout as float32 [T*N, A], or [T*N] for Discrete actions."""
    actions = flat(buffer.actions, device).float()
    return actions.flatten() if isinstance(buffer.action_space, spaces.Discrete) else actions


def rows(values: Any, index: slice | Tensor) -> Any:
    """Those rows of a tensor, of a dict of tensors, or of what has a method ``rows``."""
    if isinstance(values, dict):
        return {key: rows(value, index) for key, value in values.items()}
    if not isinstance(values, Tensor):
        return values.rows(index)
    return values.index_select(0, index) if isinstance(index, Tensor) else values[index]


def advantage_estimates(
    rewards: Numbers, values: Numbers, last_values: Numbers, ended: Numbers, *, gamma: float, gae_lambda: float
) -> Numbers:
    """Generalised advantage estimates [T, N] (Schulman et al., arXiv 1506.02438, equation 16), of arrays or tensors.

    :param rewards: [T, N]
    :param values: [T, N], V of the observation that each step began with
    :param last_values: [N], V of the observation after the last step
    :param ended: [T, N], 1 where an episode ended in that step and 0 elsewhere
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: in [0, 1]
    """
    going_on = 1.0 - ended
    following = _joined(values[1:], last_values[None])
    estimates: Numbers = rewards + gamma * following * going_on - values
    decay = gamma * gae_lambda * going_on
    for step in range(len(estimates) - 2, -1, -1):
        estimates[step] += decay[step] * estimates[step + 1]
    return estimates


def _joined(first: Any, second: Any) -> Any:
    return torch.cat([first, second]) if isinstance(first, Tensor) else np.concatenate([first, second])


def _store(buffer: RolloutBuffer, observations: Any, actions: np.ndarray, rewards: np.ndarray, starts: Any) -> None:
    """Writes the next step into ``buffer``; what is computed after the rollout stays zero."""
    pos = buffer.pos
    if isinstance(buffer.observations, dict):
        for key, array in buffer.observations.items():
            array[pos] = observations[key].reshape(array.shape[1:])
    else:
        buffer.observations[pos] = observations.reshape(buffer.observations.shape[1:])
    buffer.actions[pos] = actions.reshape(buffer.actions.shape[1:])
    buffer.rewards[pos] = rewards
    buffer.episode_starts[pos] = starts
    buffer.pos = pos + 1
    buffer.full = buffer.pos == buffer.buffer_size


def complete(model: OnPolicyAlgorithm, actor: Actor, buffer: Any, last_observations: Observations, cut: Cut) -> None:
    """Completes ``buffer``, of arrays or of tensors: values, log-probabilities, bootstrapped rewards, advantages and
    returns.

    :param last_observations: after the last step, (N, ...)
    :param cut: of the episodes that a time limit cut: steps, environments, and their last observations
    """
    policy, device = model.policy, model.device
    observations, actions = flat(buffer.observations, device), flat_actions(buffer, device)
    values, log_probs = buffer.values.reshape(-1), buffer.log_probs.reshape(-1)

    def as_there(tensor: Tensor) -> Any:
        return tensor if isinstance(buffer.values, Tensor) else tensor.cpu().numpy()

    with torch.no_grad():
        for start in range(0, len(values), EVALUATION_ROWS):
            part = slice(start, start + EVALUATION_ROWS)
            values[part] = as_there(policy.predict_values(rows(observations, part)).flatten())
            log_probs[part] = as_there(actor.log_prob(rows(observations, part), actions[part]))
        last_values = as_there(policy.predict_values(last_observations).flatten())
        for steps, indices, terminal in cut:
            terminal_values = as_there(policy.predict_values(terminal).flatten())
            buffer.rewards[list(steps), list(indices)] += model.gamma * terminal_values
    starts = buffer.episode_starts
    ended = torch.as_tensor(np.asarray(model._last_episode_starts, np.float32)).to(device)
    buffer.advantages = advantage_estimates(
        buffer.rewards,
        buffer.values,
        last_values,
        _joined(starts[1:], as_there(ended)[None]),
        gamma=buffer.gamma,
        gae_lambda=buffer.gae_lambda,
    )
    buffer.returns = buffer.advantages + buffer.values


def _stacked(observations: tuple[Any, ...]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)
