"""Base class, with Stable-Baselines3's interface, of agents in a task that never ends: acting, callbacks, saving."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop import saving
from rlopt.agents.loop.contract import AgentParts, range_of, span_of
from rlopt.agents.loop.stepping import Stepper
from rlopt.algorithms.resumable import full_signature
from rlopt.algorithms.standalone import OwnLogger, callback_of
from rlopt.envs.backends.vector_env import as_vec_env
from rlopt.errors import CheckpointError, ConfigError, NonFiniteOutcomeError, SpaceError
from rlopt.settings.fields import from_arguments
from rlopt.state.envs import capture_env, restore_env

ROUNDING = 1e-6
"""How far outside its range a reward may be, relative to the range: batches of environments give float32."""
BOUNDARY = 1000
"""Steps between two calls of ``boundary_hook``."""


class ContinuingAgent(AgentParts, OwnLogger):
    """Acts and learns in one environment that never ends, with finitely many actions.

    A subclass makes the learner, turns observations into its states, acts, and takes transitions in.

    :param env: an environment that never ends with Discrete actions, or its id; most want Discrete observations
    :param reward_range: (smallest, largest) reward of a step; None takes it from an environment that knows it
    :param seed: seed of the environment's first reset and of what the agent draws
    :param tensorboard_log: folder of TensorBoard events
    :param settings: the fields of ``config_class``, which explains them
    :raises rlopt.errors.SpaceError: observations or actions that the agent cannot use
    :raises rlopt.errors.ConfigError: a setting that does not exist or is out of range, or a span or reward range that
        neither is given nor known
    """

    step_unit = "env steps"
    device = torch.device("cpu")
    ep_info_buffer: tuple[Any, ...] = ()
    """Empty: there are no episodes."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if hasattr(cls, "config_class"):
            signature = full_signature(cls.__init__, ContinuingAgent, config=cls.config_class)
            _, *parameters = signature.parameters.values()
            cls.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        *,
        reward_range: tuple[float, float] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = from_arguments(self.config_class, {"reward_range": reward_range, **settings})
        self.verbose, self.tensorboard_log, self.seed = verbose, tensorboard_log, seed
        self.num_timesteps = self._total_timesteps = 0
        self.reward_sum = 0.0
        """The sum of the rewards of those steps: the regret is gain * num_timesteps minus this."""
        self.n_transitions = 0
        """Steps of all calls of learn, which the learner has seen."""
        self.plans: list[Any] = []
        """Every switch of the policy (:class:`~rlopt.agents.loop.contract.Switch` or a record with the same fields),
        the first plan included."""
        self.begun = False
        """Whether there is a learner."""
        self.horizon: int | None = getattr(self.config, "horizon", None)
        self.boundary_hook: Callable[[Any], bool] | None = None
        """Called every :data:`BOUNDARY` steps; learning stops when it returns False."""
        self._stepper: Stepper | None = None
        self._state: int | None = None
        if env is not None:
            self.set_env(env)
            assert self._stepper is not None
            process = self._stepper.process
            self.span = span_of(process, self.config.span) if self._needs_span() else math.nan
            self.reward_range = range_of(process, self.config.reward_range)

    # ---- learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 10_000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Acts and learns for ``total_timesteps`` steps; what was learnt before is kept in any case.

        The environment is reset only if it was not stepped before.

        :param callback: as Stable-Baselines3's; episode statistics never appear, because there are no episodes
        :param log_interval: steps between two rows of the log; None writes none
        :param tb_log_name: name of the folder of TensorBoard events; None takes the name of the class
        :raises ConfigError: an episode ends, or a reward is outside its range
        :raises NonFiniteOutcomeError: a reward is not finite
        """
        if self._stepper is None:
            raise ConfigError("there is no environment to learn in: give one to load or set_env")
        if type(total_timesteps) is not int or total_timesteps < 0:
            raise ConfigError(f"total_timesteps is {total_timesteps!r}: give a whole number of at least 0")
        if log_interval is not None and (type(log_interval) is not int or log_interval < 1):
            raise ConfigError(f"log_interval is {log_interval!r}: give a whole number of at least 1, or None")
        if reset_num_timesteps:
            self.num_timesteps, self.reward_sum = 0, 0.0
        self._total_timesteps = self.num_timesteps + total_timesteps
        if not self.begun:
            self.horizon = self.horizon or max(total_timesteps, 1)
            self._begin()
            self.begun = True
        self._begin_log(tb_log_name, reset_num_timesteps)
        hook = callback_of(self, callback, progress_bar)
        if hook is not None:
            hook.on_training_start(locals(), globals())
            hook.on_rollout_start()
        if self._state is None:
            self._state = self._arrive(self._stepper.reset(self.seed))
        self._start()
        self._run(hook, log_interval)
        if hook is not None:
            hook.on_rollout_end()
            hook.on_training_end()
        return self

    def _run(self, hook: BaseCallback | None, log_interval: int | None) -> None:
        stepper, state = self._stepper, self._state
        assert stepper is not None and state is not None
        low, high = self.reward_range
        margin = ROUNDING * max(high - low, abs(low), abs(high))
        low, high = low - margin, high + margin
        end = self._total_timesteps
        while self.num_timesteps < end:
            action = self._act(state)
            observation, reward = stepper.step(action)
            if not low <= reward <= high:
                self._refuse_reward(reward)
            arrived = self._arrive(observation)
            self._state = arrived
            self.num_timesteps += 1
            self.n_transitions += 1
            self.reward_sum += reward
            self._take_in(state, action, reward, arrived)
            state = arrived
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
            if hook is not None:
                step = {"actions": np.array([action]), "rewards": np.array([reward]), "dones": np.array([False])}
                hook.update_locals({"self": self, "infos": stepper.infos, **step})
                if not hook.on_step():
                    break
            if self.num_timesteps % BOUNDARY == 0 and self.boundary_hook is not None and not self.boundary_hook(self):
                break

    def _refuse_reward(self, reward: float) -> None:
        step = self.num_timesteps + 1
        if not math.isfinite(reward):
            raise NonFiniteOutcomeError(
                f"the reward of step {step} is {reward}: find what makes it so in the environment"
            )
        raise ConfigError(
            f"the reward of step {step} is {reward:g}, outside reward_range {self.reward_range}: give the range that "
            "the environment has"
        )

    # ---- acting, and what callbacks use

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """The greedy actions of the current policy, without exploration.

        :param observation: one, or a batch of them along the first axis
        :raises rlopt.errors.ConfigError: before :meth:`learn`
        :raises rlopt.errors.SpaceError: for observations of another shape
        """
        if not self.begun:
            raise ConfigError("the agent has no plan yet: call learn first")
        single = self.observation_space.shape
        assert single is not None
        given = np.asarray(observation)
        if given.shape == single:
            return np.array(self._greedy_of(given)), state
        if given.shape[1:] != single:
            raise SpaceError(f"the observation has shape {given.shape}: give {single} or a batch [n, *{single}]")
        return np.array([self._greedy_of(one) for one in given], np.int64), state

    def set_env(self, env: gymnasium.Env[Any, Any] | VecEnv | str, force_reset: bool = True) -> None:
        """Acts in ``env`` from now on.

        :param force_reset: False continues from the last observation: for an environment in that very state
        :raises SpaceError: its spaces are not those that the agent can use
        """
        if isinstance(env, str):
            from rlopt.envs.make import make_env

            env = make_env(env, seed=self.seed or 0)
        chosen: gymnasium.Env[Any, Any] | VecEnv = as_vec_env(env)
        stepper = Stepper(chosen)
        self._check_spaces(chosen.observation_space, chosen.action_space)
        for name in ("observation_space", "action_space"):
            own, other = getattr(self, name, None), getattr(chosen, name)
            if own is not None and own != other:
                raise SpaceError(f"the environment has the {name} {other}, the agent learns in {own}")
        self.observation_space, self.action_space = chosen.observation_space, chosen.action_space
        self._stepper = stepper
        if force_reset:
            self._state = None

    def get_env(self) -> VecEnv | None:
        """The environment, as callbacks want it."""
        return None if self._stepper is None else self._stepper.vec_env()

    @property
    def env(self) -> Any:
        """The environment as it was given."""
        return None if self._stepper is None else self._stepper.env

    @property
    def process(self) -> Any:
        """The environment under all wrappers, None without one."""
        return None if self._stepper is None else self._stepper.process

    def get_vec_normalize_env(self) -> None:
        """None: rewards that a wrapper rescales have another gain."""
        return

    @property
    def n_switches(self) -> int:
        """How often the policy was replanned, the first plan not counted."""
        return max(len(self.plans) - 1, 0)

    @property
    def gain(self) -> float:
        """The present estimate of the best gain; of an optimistic agent that of its plan."""
        return float(self.data.gain)

    def dump_logs(self) -> None:
        """Writes a row of the log."""
        self.logger.record("rollout/average_reward", self.reward_sum / max(self.num_timesteps, 1))
        self.logger.record("loop/plan_gain", self.gain)
        self.logger.record("loop/switches", self.n_switches)
        self._record()
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    # ---- saving

    def training_trees(self) -> dict[str, Any]:
        """The state of agent and environment, for a checkpoint of a run."""
        return {"agent": saving.tree_of(self), "env": capture_env(self._vec_env())}

    def restore_training(self, trees: Mapping[str, Any]) -> str | None:
        """Puts an agent of the same settings, in a fresh environment, where :meth:`training_trees` found it.

        :returns: None, or why the environment's state could not be taken: it begins with a reset then
        :raises CheckpointError: the state is of another agent or environment, or malformed
        """
        missing = {"agent", "env"} - set(trees)
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(sorted(missing))}: it holds no such agent")
        tree, own = trees["agent"], saving.tree_of(self)
        for name in ("class", "observation_space", "action_space", "settings"):
            if tree[name] != own[name]:
                raise CheckpointError(f"the checkpoint has another {name} than this agent: resume its own run")
        saving.put_progress(self, tree)
        reason = restore_env(self._vec_env(), trees["env"])
        if reason is None:
            return None
        self._state = None
        return f"the simulator's state is not restored ({reason}): it begins with a reset"

    def _vec_env(self) -> VecEnv:
        vec_env = self.get_env()
        if vec_env is None:
            raise ConfigError("the agent has no environment: call set_env")
        return vec_env

    def save(self, path: str | Path) -> Path:
        """Writes a folder of safetensors and JSON, never a pickle; what was there is replaced whole.

        :raises CheckpointError: if the file system refuses, or ``path`` holds something else
        """
        return saving.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, env: Any = None, force_reset: bool = True, **given: Any) -> Self:
        """Reads what :meth:`save` wrote; executes nothing that the files say.

        :param env: to continue in; see :meth:`set_env` for ``force_reset``
        :param given: ``feature_map`` for a linear agent whose map is a function, which files do not hold
        :raises CheckpointError: the folder is missing, damaged, or of another agent
        """
        return saving.load(cls, Path(path), env, force_reset, given)
