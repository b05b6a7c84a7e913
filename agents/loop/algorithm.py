"""The Stable-Baselines3-shaped face of value-based LOOP: acting, lazy switching, callbacks, saving."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.loop import saving
from rlopt.agents.loop.config import LOOPConfig
from rlopt.agents.loop.linear import LinearSet
from rlopt.agents.loop.planner import PlanRecord, Problem
from rlopt.agents.loop.stepping import Stepper
from rlopt.agents.loop.tabular import TabularSet
from rlopt.config import from_mapping
from rlopt.errors import ConfigError, NonFiniteError, SpaceError

ROUNDING = 1e-6
"""How far outside its range a reward may be, relative to the range: batches of environments give float32."""


class LazyOptimist:
    """What tabular and linear LOOP share: act greedily on the plan in force, replan when its discrepancy has grown.

    A subclass makes the confidence set and turns observations into its states.
    """

    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
    data: TabularSet | LinearSet
    """The confidence set; made when the horizon is known."""
    span: float
    """H, bound of max - min of the optimal bias, in units of reward."""
    reward_range: tuple[float, float]

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VecEnv | str | None,
        settings: dict[str, Any],
        reward_range: tuple[float, float] | None,
        seed: int | None,
        verbose: int,
        tensorboard_log: str | None,
    ) -> None:
        self.config = from_mapping(self.config_class, settings, type(self).__name__)
        self.verbose, self.tensorboard_log, self.seed = verbose, tensorboard_log, seed
        self.num_timesteps = self._total_timesteps = 0
        self.reward_sum = 0.0
        """Of the rewards of those steps: gain * num_timesteps minus this is the regret."""
        self.n_transitions = 0
        """Steps of all calls of learn, which the confidence set holds."""
        self.plans: list[PlanRecord] = []
        """Every switch of the policy, the first plan included."""
        self.beta = math.nan
        """Squared radius of the confidence set, in units of reward squared."""
        self.horizon = self.config.horizon
        self._stepper: Stepper | None = None
        self._state: int | None = None
        self._logger: Logger | None = None
        if env is not None:
            self.set_env(env)
            assert self._stepper is not None
            process = self._stepper.process
            self.span = _span_of(process, self.config.span)
            self.reward_range = _range_of(process, reward_range)

    # ---- what a subclass gives

    def _check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        raise NotImplementedError

    def _complexity(self) -> tuple[int, int]:
        """(what multiplies the local beta, what stands beside T in the logarithm)."""
        raise NotImplementedError

    def _make_set(self, problem: Problem, local_beta: float) -> TabularSet | LinearSet:
        raise NotImplementedError

    def _arrive(self, observation: Any) -> int:
        """The state of the confidence set that ``observation`` is."""
        raise NotImplementedError

    def _greedy(self, state: int) -> int:
        raise NotImplementedError

    def _greedy_of(self, observation: Any) -> int:
        """The greedy action for an observation, without taking it in."""
        raise NotImplementedError

    # ---- learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 10_000,
        tb_log_name: str = "LOOP",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Acts and learns for ``total_timesteps`` steps; what was learnt before is kept in any case.

        The environment is reset only if it was not stepped before.

        :param callback: as Stable-Baselines3's; episode statistics never appear, because there are no episodes
        :param log_interval: steps between two rows of the log
        :raises ConfigError: an episode ends, or a reward is outside its range
        :raises NonFiniteError: a reward is not finite
        """
        if self._stepper is None:
            raise ConfigError("there is no environment to learn in: give one to load or set_env")
        if type(total_timesteps) is not int or total_timesteps < 0:
            raise ConfigError(f"total_timesteps is {total_timesteps!r}: give a whole number of at least 0")
        if type(log_interval) is not int or log_interval < 1:
            raise ConfigError(f"log_interval is {log_interval!r}: give a whole number of at least 1")
        if reset_num_timesteps:
            self.num_timesteps, self.reward_sum = 0, 0.0
        self._total_timesteps = self.num_timesteps + total_timesteps
        if not math.isfinite(self.beta):
            self.horizon = self.horizon or max(total_timesteps, 1)
            self._begin()
        self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        hook = self._callback(callback, progress_bar)
        if hook is not None:
            hook.on_training_start(locals(), globals())
            hook.on_rollout_start()
        if self._state is None:
            self._state = self._arrive(self._stepper.reset(self.seed))
        if not self.plans:
            self._switch()
        self._run(hook, log_interval)
        if hook is not None:
            hook.on_rollout_end()
            hook.on_training_end()
        return self

    def _run(self, hook: BaseCallback | None, log_interval: int) -> None:
        stepper, data, state = self._stepper, self.data, self._state
        assert stepper is not None and state is not None
        low, high = self.reward_range
        margin = ROUNDING * max(high - low, abs(low), abs(high))
        low, high = low - margin, high + margin
        threshold = self._threshold()
        end = self._total_timesteps
        while self.num_timesteps < end:
            action = self._greedy(state)
            observation, reward = stepper.step(action)
            if not low <= reward <= high:
                self._refuse_reward(reward)
            arrived = self._arrive(observation)
            data.add(state, action, reward, arrived)
            self._left(state)
            state = self._state = arrived
            self.num_timesteps += 1
            self.n_transitions += 1
            self.reward_sum += reward
            if data.discrepancy >= threshold:
                self._switch()
                threshold = self._threshold()
            if self.num_timesteps % log_interval == 0:
                self._log()
            if hook is not None:
                step = {"actions": np.array([action]), "rewards": np.array([reward]), "dones": np.array([False])}
                hook.update_locals({"self": self, "infos": stepper.infos, **step})
                if not hook.on_step():
                    break

    def _left(self, state: int) -> None:
        """Called once a transition out of ``state`` was taken in."""

    def _begin(self) -> None:
        """Makes the confidence set: beta = beta_scale H^2 N log(T M / delta), N and M of :meth:`_complexity`."""
        pairs, inside = self._complexity()
        assert self.horizon is not None
        low, high = self.reward_range
        logarithm = math.log(self.horizon * inside / self.config.delta)
        local_beta = self.config.beta_scale * self.span**2 * max(logarithm, 1.0)
        self.beta = pairs * local_beta
        problem = Problem(self.span, low, high, self.config.tolerance, self.config.max_sweeps)
        self.data = self._make_set(problem, local_beta)

    def _switch(self) -> None:
        certificate = self.data.plan(self.beta, self.config.planner)
        self.plans.append(PlanRecord(self.n_transitions, self.data.gain, certificate))

    def _threshold(self) -> float:
        """The discrepancy at which the plan in force is given up: 4 beta.

        A plan that is not in the set, as an underestimated span can make it, may grow by the same factor: at 4 beta it
        could be given up at once, and so every following one.
        """
        return self.config.switch_multiplier * max(self.beta, self.plans[-1].certificate.discrepancy)

    def _refuse_reward(self, reward: float) -> None:
        step = self.num_timesteps + 1
        if not math.isfinite(reward):
            raise NonFiniteError(f"the reward of step {step} is {reward}: find what makes it so in the environment")
        raise ConfigError(
            f"the reward of step {step} is {reward:g}, outside reward_range {self.reward_range}: give the range that "
            "the environment has"
        )

    # ---- acting, and what callbacks use

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The greedy actions of the plan in force; LOOP's policy is deterministic.

        :param observation: one, or a batch of them along the first axis
        """
        if not self.plans:
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

        :param force_reset: False goes on from the last observation: for an environment in that very state
        :raises SpaceError: its spaces are not those that the agent can use
        """
        if isinstance(env, str):
            from rlopt.envs.make import make_env

            env = make_env(env, seed=self.seed or 0)
        stepper = Stepper(env)
        self._check_spaces(env.observation_space, env.action_space)
        for name in ("observation_space", "action_space"):
            own, other = getattr(self, name, None), getattr(env, name)
            if own is not None and own != other:
                raise SpaceError(f"the environment has the {name} {other}, the agent learns in {own}")
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._stepper = stepper
        if force_reset:
            self._state = None

    def get_env(self) -> VecEnv | None:
        """The environment, as callbacks want it."""
        return None if self._stepper is None else self._stepper.vec_env()

    @property
    def process(self) -> Any:
        """The environment under all wrappers, None without one."""
        return None if self._stepper is None else self._stepper.process

    def get_vec_normalize_env(self) -> None:
        """None: rewards that a wrapper rescales have another gain."""
        return

    @property
    def logger(self) -> Logger:
        """Where rows of the log go."""
        assert self._logger is not None
        return self._logger

    @property
    def n_switches(self) -> int:
        """How often the policy was replanned, the first plan not counted."""
        return max(len(self.plans) - 1, 0)

    @property
    def discrepancy(self) -> float:
        """Of the plan in force, on all data."""
        return self.data.discrepancy

    @property
    def gain(self) -> float:
        """J_f of the plan in force, an optimistic estimate of the best gain."""
        return self.data.gain

    def _callback(self, callback: Any, progress_bar: bool) -> BaseCallback | None:
        if callback is None and not progress_bar:
            return None
        if isinstance(callback, list):
            callback = CallbackList(callback)
        hook: BaseCallback = callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
        if progress_bar:
            hook = CallbackList([hook, ProgressBarCallback()])
        hook.init_callback(self)  # type: ignore[arg-type]
        return hook

    def _log(self) -> None:
        record = self.logger.record
        record("rollout/average_reward", self.reward_sum / self.num_timesteps)
        record("loop/plan_gain", self.gain)
        record("loop/discrepancy", self.discrepancy)
        record("loop/threshold", self._threshold())
        record("loop/switches", self.n_switches)
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    # ---- saving

    def save(self, path: str | Path) -> Path:
        """Writes a folder of safetensors and JSON, never a pickle; what was there is replaced whole.

        :raises CheckpointError: if the file system refuses, or ``path`` holds something else
        """
        return saving.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, env: Any = None, force_reset: bool = True, **given: Any) -> Self:
        """Reads what :meth:`save` wrote; executes nothing that the files say.

        :param env: to go on in; see :meth:`set_env` for ``force_reset``
        :param given: ``feature_map`` for a linear agent whose map is a function, which files do not hold
        :raises CheckpointError: the folder is missing, damaged, or of another agent
        """
        return saving.load(cls, Path(path), env, force_reset, given)


def _span_of(process: Any, given: float | None) -> float:
    if given is not None:
        return float(given)
    mdp = getattr(process, "mdp", None)
    if mdp is None:
        raise ConfigError(
            "span is not given and the environment does not know it: give a bound of max - min of the optimal bias, "
            "such as the reward lost while getting from the worst state to the best"
        )
    return max(float(mdp.span), 1e-6)


def _range_of(process: Any, given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None:
        given = getattr(getattr(process, "mdp", process), "reward_range", None)
    if given is None:
        raise ConfigError("reward_range is not given and the environment does not know it: give (smallest, largest)")
    low, high = float(given[0]), float(given[1])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"reward_range is {given}: give two finite numbers, the smaller first")
    return low, high
