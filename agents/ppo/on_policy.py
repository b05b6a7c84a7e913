"""Shared parts of PPO and MDPO: rollouts, gradient steps in every mode, and Stable-Baselines3's interface."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlopt.agents.ppo.heads import action_head
from rlopt.agents.ppo.update import History, Phase, PhaseStep, Request, obstacle, take_eagerly, update_models
from rlopt.algorithms.arguments import check_counted_from_zero, check_observation_space, check_real_actions
from rlopt.algorithms.device_rollout import collect_on_device, device_env
from rlopt.algorithms.finite import FiniteVecEnv, check_finite, check_parameters
from rlopt.algorithms.initialization import ActorLayers, Head, fill, linear_layers
from rlopt.algorithms.resumable import Resumable, training_env
from rlopt.algorithms.rollout import advantage_estimates, can_collect, collect, finish_step
from rlopt.console.progress import say
from rlopt.envs.calls import NamedWorkers
from rlopt.errors import ConfigError, SpaceError
from rlopt.optim.compiled_step import CompileChoice, Mode, choose_mode
from rlopt.optim.lockstep import runs_in_lockstep, together
from rlopt.settings.fields import check_arguments

COMPILE_PAYS_AFTER = 60_000
"""Gradient steps, of small networks, after which the seconds that compilation takes are earned back."""
BEYOND_SB3 = ("compile", "reward_centring", "centring_rate")
"""Settings of every on-policy agent that Stable-Baselines3's PPO does not have."""
NOT_SETTINGS = ("self", "env", "_init_setup_model", "__class__")
"""Constructor arguments that are not settings."""


class OnPolicy(Resumable, OnPolicyAlgorithm):
    """Base of the on-policy agents.

    A subclass's constructor begins with :meth:`_checked_env`. It says what an update minimises in :meth:`phases`, and
    how many gradient steps that takes in :meth:`gradient_steps_a_rollout`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    state_attributes: ClassVar[tuple[str, ...]] = ("_n_rollouts", "average_reward")
    unsaved: ClassVar[tuple[str, ...]] = ("prepared", "_told", "_ends")
    later_attributes: ClassVar[tuple[str, ...]] = ("average_reward",)
    profiled_sections: ClassVar[dict[str, str]] = {"collect_rollouts": "act"}
    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("buffer_size", "learning_starts", "tau", "train_freq", "gradient_steps", "replay_buffer_class"),
        "it learns from whole rollouts and has no replay: take an off-policy agent, such as rlopt.SAC",
    )
    policy: ActorCriticPolicy
    compile: CompileChoice
    reward_centring: bool
    centring_rate: float
    average_reward: float = 0.0
    """The average that values are counted from with ``reward_centring``."""

    def phases(self) -> list[Phase]:
        """What the update on the rollout just collected minimises, one after the other."""
        raise NotImplementedError

    def gradient_steps_a_rollout(self) -> int:
        """Gradient steps of one update."""
        raise NotImplementedError

    def _checked_env(self, config: type, settings: dict[str, Any], env: GymEnv | str | None) -> GymEnv | None:
        """Checks the arguments of a constructor, keeps its settings, and makes its environment.

        :param settings: every argument by name, :data:`NOT_SETTINGS` among them or not
        """
        self.constructor_settings = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
        check_arguments(config, self.constructor_settings)
        for name in BEYOND_SB3:
            setattr(self, name, settings[name])
        self.prepared: dict[str, PhaseStep] = {}
        """The gradient steps of each phase as they were last compiled, captured or stacked."""
        self._told: str | None = None
        self._n_rollouts = 0
        self._ends: list[np.ndarray] = []
        if env is None:
            return None
        made = training_env(env, settings["verbose"])
        check_spaces(made.observation_space, made.action_space, type(self).__name__)
        return made

    def _setup_model(self) -> None:
        super()._setup_model()
        self.prepared = {}

    def _tell_of_minibatches(self) -> None:
        """Warns of minibatches that do not divide a rollout."""
        steps = self.n_steps * self.n_envs
        for name in ("batch_size", "value_batch_size"):
            size = getattr(self, name, None) or steps
            if steps % size:
                rollout = f"a rollout of n_steps x environments = {self.n_steps} x {self.n_envs} = {steps} steps"
                what = f"does not divide {rollout}: each pass ends with a minibatch of {steps % size}"
                if size > steps:
                    what = f"is more than {rollout}: each gradient step takes them all"
                warnings.warn(f"{name} = {size} {what}", stacklevel=3)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if not self.at_boundary():
            return False
        check_finite("observation", self._last_obs, self.num_timesteps)
        self._ends = []
        with NamedWorkers(env):
            worlds = device_env(self, env)
            if worlds is not None and can_collect(self.policy, rollout_buffer):
                head = action_head(self.policy)
                going_on = collect_on_device(self, head, env, worlds, callback, rollout_buffer, n_rollout_steps)
            elif self._collects_quickly(rollout_buffer):
                going_on = collect(self, action_head(self.policy), env, callback, rollout_buffer, n_rollout_steps)
            else:
                checked = FiniteVecEnv(env, self.num_timesteps)
                going_on = super().collect_rollouts(checked, callback, rollout_buffer, n_rollout_steps)
                if not going_on:
                    finish_step(self, callback)
        self._n_rollouts += int(going_on)
        if going_on and self.reward_centring:
            self._centre(rollout_buffer)
        return going_on

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        assert dones is not None
        ended = np.array(dones, bool)
        for index, info in enumerate(infos):  # which an environment may leave out
            ended[index] &= not info.get("TimeLimit.truncated", False)
        self._ends.append(ended)

    def _ends_of(self, buffer: Any) -> tuple[Any, Any]:
        """Where, in the rollout just collected, an episode ended, and where it truly ended: [T, N] each, 0 or 1."""
        starts, last = buffer.episode_starts, np.asarray(self._last_episode_starts, np.float32)
        # Worlds on a device have no ends but time limits.
        ended = np.array(self._ends, np.float32) if self._ends else np.zeros(starts.shape, np.float32)
        if isinstance(starts, Tensor):
            return torch.cat([starts[1:], starts.new_tensor(last)[None]]), starts.new_tensor(ended)
        return np.concatenate([starts[1:], last[None]]), ended

    def _centre(self, buffer: Any) -> None:
        """Counts the rewards of the rollout from the average, and with them advantages and the targets of V.

        A true end, of value 0, is worth -average / (1 - gamma) among such values.
        """
        over, ended = self._ends_of(buffer)
        going_on = over * (1 - ended) == 0  # the reward of a step that a time limit cut holds the value behind it
        if bool(going_on.any()):
            rate = max(self.centring_rate, 1 / self._n_rollouts)
            self.average_reward += rate * (float(buffer.rewards[going_on].mean()) - self.average_reward)
        shift = -self.average_reward * (1 + ended * self.gamma / (1 - self.gamma))
        nothing = 0 * buffer.values
        # Estimates are linear in rewards.
        buffer.rewards = buffer.rewards + shift
        buffer.advantages = buffer.advantages + advantage_estimates(
            shift, nothing, nothing[0], over, gamma=self.gamma, gae_lambda=self.gae_lambda
        )
        buffer.returns = buffer.advantages + buffer.values
        self.logger.record("train/average_reward", self.average_reward)

    def _collects_quickly(self, buffer: RolloutBuffer) -> bool:
        """Whether the rollout is gathered by :func:`rlopt.algorithms.rollout.collect`."""
        return can_collect(self.policy, buffer)

    def train(self) -> None:
        """One update on the rollout: each phase's gradient steps."""
        self.policy.set_training_mode(False)  # pi_k is the policy as it acted
        mode, phases = self._update_mode(), self.phases()
        self.policy.set_training_mode(True)
        if mode is None or self._obstacle(phases) is not None:
            history: History = {}
            for phase in phases:
                history.update(take_eagerly(phase, self.num_timesteps))
        else:
            history = together(update_models, Request(phases, mode, self.prepared, self.num_timesteps))
        check_parameters(self.policy, self.num_timesteps)
        self.policy.set_training_mode(False)
        self._after_update(phases, history)

    def _after_update(self, phases: Sequence[Phase], history: History) -> None:
        """Logs the update, of which ``history`` has the statistics of every gradient step."""
        raise NotImplementedError

    def _update_mode(self) -> Mode | None:
        """How each gradient step is taken as one function of tensors; None to take it by torch's own optimiser."""
        rollouts = self._total_timesteps / (self.n_steps * self.n_envs)
        # What is compiled for one of several runs serves all.
        planned = int(rollouts * self.gradient_steps_a_rollout()) * runs_in_lockstep()
        mode = choose_mode(self.compile, self.device, planned, pays_after=COMPILE_PAYS_AFTER)
        return None if mode == "eager" else mode

    def _obstacle(self, phases: Sequence[Phase]) -> str | None:
        """Why the gradient steps are taken by torch's own optimisers all the same; said once."""
        reason = next(filter(None, map(obstacle, phases)), None)
        if reason is not None and reason != self._told:
            say(f"{type(self).__name__}'s gradient steps are not compiled: {reason}")
        self._told = reason
        return reason

    def _steps_a_pass(self, batch_size: int | None) -> int:
        return 1 if batch_size is None else -(-self.n_steps * self.n_envs // batch_size)

    def _on_host(self, history: History) -> dict[str, Tensor]:
        """The statistics of every gradient step on the host, losses checked."""
        found = {name: torch.stack(values).cpu() for name, values in history.items()}
        for name, values in found.items():
            if name.endswith("loss"):
                check_finite(name.replace("_", " "), values, self.num_timesteps)
        return found

    def _log_state(self) -> None:
        """Logs what every update has."""
        columns = (self.rollout_buffer.values, self.rollout_buffer.returns)
        values, returns = (torch.as_tensor(column).flatten().cpu().numpy() for column in columns)
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())

    def actor_layers(self) -> ActorLayers | None:
        """The actor as layers, for another agent to begin with (:func:`rlopt.algorithms.initialization.begin_from`)."""
        found = self._layers_of_actor()
        if found is None or getattr(self.policy, "squash_output", False):
            return None
        layers = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in found[0]]
        log_std = self.policy.log_std.detach().clone() if self._head() == "mean" else None
        return ActorLayers(layers, found[1], self._head(), log_std)

    def take_actor(self, given: ActorLayers) -> None:
        """Begins with another agent's actor, such as behaviour cloning's of Discrete actions.

        :raises rlopt.errors.ConfigError: the networks or the kinds of action differ
        """
        found = self._layers_of_actor()
        if found is None:
            raise ConfigError("only a perceptron of flat observations, without gSDE, can begin from another's actor")
        fill(*found, given, self._head())
        if given.log_std is not None:
            self.policy.log_std.data.copy_(given.log_std)

    def _layers_of_actor(self) -> tuple[list[torch.nn.Linear], type[torch.nn.Module] | None] | None:
        flat = type(self.policy.pi_features_extractor) is FlattenExtractor and not self.use_sde
        return linear_layers(self.policy.mlp_extractor.policy_net, self.policy.action_net) if flat else None

    def _head(self) -> Head:
        return "mean" if isinstance(self.action_space, spaces.Box) else "logits"

    def dump_logs(self, iteration: int = 0) -> None:
        super().dump_logs(self._n_rollouts)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As Stable-Baselines3's ``learn``; ``tb_log_name`` is by default the name of the class."""
        self._tell_of_minibatches()
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)


ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, agent: str) -> None:
    """Raises :class:`rlopt.errors.SpaceError` unless ``agent``, an on-policy one, can use both spaces."""
    check_observation_space(observation_space)
    if not isinstance(action_space, ACTION_SPACES):
        raise SpaceError(
            f"{agent} cannot use the action space {action_space}: it takes Box, Discrete, MultiDiscrete or "
            "MultiBinary; flatten other spaces with gymnasium.wrappers"
        )
    if isinstance(action_space, spaces.Box):
        check_real_actions(action_space)
        if 0 in action_space.shape:
            raise SpaceError(f"the action space {action_space} has no dimensions: give the agent something to do")
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) != 1:
        raise SpaceError(f"the action space is {action_space}, which has more than one axis: give it in one row")
    check_counted_from_zero(action_space, "the action space")
