"""Policy search from rankings, with the interface of a Stable-Baselines3 algorithm."""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device, is_vectorized_observation
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.zo_ranksgd.checks import checked_seed
from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.agents.zo_ranksgd.methods import make_search
from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.agents.zo_ranksgd.policies import saving as policy_saving
from rlopt.agents.zo_ranksgd.policies.candidates import CandidateEvaluator, Evaluation, RoundStopped, round_seeds
from rlopt.agents.zo_ranksgd.policies.environments import open_env
from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, Normalizer, feature_count
from rlopt.agents.zo_ranksgd.policies.rounds import Round, budget_of, logged
from rlopt.agents.zo_ranksgd.policies.sb3_policy import actor_only, load_parameters, make_policy
from rlopt.agents.zo_ranksgd.policies.spread import Spread
from rlopt.agents.zo_ranksgd.policies.vector import inputs_of
from rlopt.agents.zo_ranksgd.query import Query
from rlopt.algorithms.resumable import full_signature
from rlopt.algorithms.standalone import OwnLogger, callback_of
from rlopt.console.progress import Counted
from rlopt.console.signals import StopRequest
from rlopt.engine import Engine
from rlopt.envs.backends.vector_env import as_vec_env
from rlopt.envs.settings import EnvSettings
from rlopt.errors import CheckpointError, ConfigError, SpaceError
from rlopt.feedback.oracles import Oracle, ReturnOracle, person
from rlopt.feedback.ranking import Ranking
from rlopt.settings.device import check_device
from rlopt.settings.fields import from_arguments

REMEMBERED_EPISODES = 100
"""Episodes whose mean return is logged, as Stable-Baselines3's ``stats_window_size``."""
_OPTIMIZER = (
    "m", "k", "smoothing", "learning_rate", "line_search_points", "line_search_decay", "accumulate",
    "best_query_in_line_search", "subspace", "smoothing_schedule", "learning_rate_schedule", "schedule_rounds",
)  # fmt: skip


class RankedPolicySearch(OwnLogger):
    """Searches the parameters of a policy by rankings, with ZO-RankSGD unless ``search`` names another rule.

    Each round ranks candidates by their returns or by the answers of people.

    A round runs ``episodes_per_candidate`` episodes of every candidate, all in parallel, with the same environment
    seeds for all (``common_random_numbers``) and with frozen statistics of observations. A line search is a round, too.
    A callback's *step* is a round: ``locals["round"]`` is a
    :class:`rlopt.agents.zo_ranksgd.policies.rounds.Round`, ``dones`` and ``infos`` are those of its episodes.

    :param policy: ``LinearPolicy``, ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``, a class of Stable-Baselines3
        policies, or a policy, whose parameters are where the search begins
    :param env: an id or ``EnvSettings``: as many environments as a round needs are made (at most ``max_envs``), with
        EnvPool where it fits. A VecEnv or a gymnasium environment is used as it is, in turns
    :param oracle: ``return``, ``noisy``, or anything with the method of :class:`rlopt.feedback.oracles.Oracle`
    :param normalize_observations: whether features are shifted and scaled by their running mean and deviation; not for
        policies that see images
    :param policy_kwargs: of a network, as in Stable-Baselines3; ``net_arch`` is that of the settings unless given here
    :param seed: seed of networks, candidates, environments and noisy oracles; None draws one
    :param engine: local, ray or an open :class:`rlopt.engine.Engine`, whose processes run the episodes of a round with
        the same result; None runs them in this process. It needs an id or ``EnvSettings``, and a policy by name
    :param settings: settings of :class:`rlopt.agents.zo_ranksgd.config.ZORankSGDConfig`
    :raises rlopt.errors.ConfigError: a setting is unknown or out of range
    :raises rlopt.errors.SpaceError: the spaces of the environment cannot be used
    """

    step_unit = "env steps"
    config_class = ZORankSGDConfig

    def __init__(
        self,
        policy: str | type[BasePolicy] | BasePolicy,
        env: gymnasium.Env[Any, Any] | VecEnv | EnvSettings | str | None,
        *,
        oracle: str | Oracle = ZORankSGDConfig.oracle,
        normalize_observations: bool = True,
        policy_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        device: str | torch.device = "auto",
        engine: str | Engine | None = ZORankSGDConfig.engine,
        **settings: Any,
    ) -> None:
        config = from_arguments(ZORankSGDConfig, {"policy": policy, "oracle": oracle, "engine": engine, **settings})
        named = {
            name: getattr(config if isinstance(value, str) else ZORankSGDConfig, name)
            for name, value in (("policy", policy), ("oracle", oracle), ("engine", engine))
        }
        self.config: ZORankSGDConfig = dataclasses.replace(config, **named)
        """Objects of Python are not in it."""
        self._spread = Spread.of(self.config, engine if isinstance(engine, Engine) else None)
        self.verbose, self.tensorboard_log = verbose, tensorboard_log
        given_seed = checked_seed(seed)
        self.seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1) if given_seed is None else given_seed
        check_device(device)
        self.device = get_device(device)
        self.normalize_observations = normalize_observations
        self.oracle: Oracle | None = oracle_of(self.config) if isinstance(oracle, str) else oracle
        # What ranks in Python is taken at its word.
        self._is_noisy = self.config.oracle != "return" and isinstance(oracle, str)
        self._given_policy, self._policy_kwargs = policy, actor_only(policy_kwargs)
        self.num_timesteps = self._total_timesteps = self.num_episodes = self.num_queries = 0
        self.ep_info_buffer: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_EPISODES)
        self.last_round: Round | None = None
        self.log_values: dict[str, float] = {}
        self.boundary_hook: Callable[[Any], bool] | None = None
        """Called before every round; learning stops when it returns False."""
        self.stop_request = StopRequest()
        """Whether a round is to be given up at once; ``boundary_hook`` is then called before it would begin again."""
        self.study: Any = None
        """The :class:`rlopt.feedback.study.HumanStudy` whose people answer instead of an oracle, while they do."""
        self.env: VecEnv | None = None
        if env is not None:
            self.set_env(env)

    def _make(self, observation_space: Any, action_space: Any) -> None:
        """Policy and optimiser, once the spaces are known."""
        config = self.config
        self.observation_space, self.action_space = observation_space, action_space
        kwargs = self._policy_kwargs
        if self._given_policy != "LinearPolicy" and not isinstance(self._given_policy, BasePolicy):
            kwargs = {"net_arch": list(config.net_arch), **(kwargs or {})}
        self._policy_kwargs_used = kwargs
        self.policy, self.policy_vector = make_policy(
            self._given_policy,
            observation_space,
            action_space,
            bias=config.bias,
            policy_kwargs=kwargs,
            seed=self.seed,
            device=self.device,
        )
        if self.normalize_observations and not self.policy_vector.takes_features:
            raise ConfigError(
                f"observations of {type(self.policy).__name__} are not normalised: give normalize_observations=False"
            )
        self.normalizer = Normalizer(feature_count(observation_space) if self.normalize_observations else None)
        arguments = {name: getattr(config, name) for name in _OPTIMIZER}
        self.optimizer, self.search_words = make_search(
            config.search, self.policy_vector.initial(), arguments, seed=self.seed, noisy=self._is_noisy
        )
        self._sync()

    def _sync(self) -> None:
        """Puts the current point into the policy that acts."""
        self._acting = self.policy_vector.prepare(self.optimizer.point[None])
        if isinstance(self.policy, BasePolicy):
            load_parameters(self.policy, self.optimizer.point)

    # ---- learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        total_episodes: int | None = None,
        total_queries: int | None = None,
    ) -> Self:
        """Searches until a budget is spent; the round that reaches ``total_timesteps`` is completed.

        :param callback: as Stable-Baselines3's; its step is a round
        :param log_interval: rounds between two rows of the log; None writes none
        :param reset_num_timesteps: count steps, episodes and queries anew; the search continues in any case
        :param total_episodes: never exceeded; by default that of the settings
        :param total_queries: rounds, line searches included; by default that of the settings
        :raises rlopt.errors.ConfigError: a budget is no whole number, or there is no environment or oracle
        """
        if self.env is None:
            raise ConfigError("there is no environment to learn in: give one to load or set_env")
        if self.oracle is None and self.study is None:
            raise ConfigError("there is no oracle: give the one that ranks as oracle=")
        if type(total_timesteps) is not int or total_timesteps < 0:
            raise ConfigError(f"total_timesteps is {total_timesteps!r}: give a whole number of at least 0")
        limits = {"total_episodes": total_episodes, "total_queries": total_queries, "log_interval": log_interval}
        for name, value in limits.items():
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1, or None")
        if reset_num_timesteps:
            self.num_timesteps = self.num_episodes = self.num_queries = 0
        self._total_timesteps = self.num_timesteps + total_timesteps
        self._limits = (total_episodes or self.config.total_episodes, total_queries or self.config.total_queries)
        self._begin_log(tb_log_name, reset_num_timesteps)
        hook = callback_of(self, callback, progress_bar)
        if hook is not None:
            hook.on_training_start(locals(), globals())
        with nullcontext() if self._spread is None else self._spread.opened():
            self._play_rounds(hook, log_interval)
        if hook is not None:
            hook.on_training_end()
        return self

    def _play_rounds(self, hook: Any, log_interval: int | None) -> None:
        while self._affordable() and (self.boundary_hook is None or self.boundary_hook(self)):
            if hook is not None:
                hook.on_rollout_start()
            try:
                rounds = self._play_rounds_of_update()
            except RoundStopped:
                continue
            if not rounds:
                continue  # people have not answered yet: look for a request to stop
            if log_interval is not None and self.num_queries % log_interval < len(rounds):
                self.dump_logs()
            goes_on = True
            for played in rounds if hook is not None else ():
                hook.update_locals({"self": self, **played.for_callbacks()})
                goes_on = hook.on_step() and goes_on
            if hook is not None:
                hook.on_rollout_end()
            if not goes_on:
                return

    def _affordable(self) -> bool:
        episodes, queries = self._limits
        if self.num_timesteps >= self._total_timesteps or (queries is not None and self.num_queries >= queries):
            return False
        if episodes is None:
            return True
        needed = len(self.optimizer.ask().candidates) * self.config.episodes_per_candidate
        return self.num_episodes + needed <= episodes

    def _play_rounds_of_update(self) -> Sequence[Round]:
        """The rounds that one update takes, one by default; none if the answers are not there yet."""
        assert self.oracle is not None
        query = self.optimizer.ask()
        evaluation = self.evaluate_candidates(query)
        answers = []
        for annotator in range(self.config.annotators):
            key = (0, query.iteration, annotator)
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
            answers.append(self.oracle.rank(evaluation.returns, query.k, rng))
        return [self.complete_round(query, evaluation, answers)]

    def evaluate_candidates(self, query: Query, normalizer: Normalizer | None = None) -> Evaluation:
        """Runs the episodes of a query; the same ones however often it is called.

        :param normalizer: of observations; the current one by default
        :raises rlopt.agents.zo_ranksgd.policies.candidates.RoundStopped: for a request to stop
        """
        assert self.env is not None
        config = self.config
        seeds = round_seeds(
            self.seed,
            query.iteration,
            len(query.candidates),
            config.episodes_per_candidate,
            config.common_random_numbers,
        )
        if self._spread is not None:
            return self._spread.evaluate(self, query.candidates, seeds)
        evaluator = CandidateEvaluator(self.env, self.policy_vector)
        evaluator.stopping = lambda: self.stop_request.received is not None
        return evaluator.evaluate(query.candidates, seeds, self.normalizer if normalizer is None else normalizer)

    def complete_round(self, query: Query, evaluation: Evaluation, answers: Sequence[Ranking]) -> Round:
        """Tells the optimiser the answers, then adds the round's observations to their statistics."""
        statistics = self.normalizer.get_state()
        played = Round(query, tuple(answers), evaluation, self.optimizer.tell(answers), statistics)
        self._count([played])
        return played

    def _count(self, rounds: Sequence[Round]) -> None:
        """Adds rounds that the optimiser was told to the statistics and the counters."""
        for played in rounds:
            self.normalizer.update(played.evaluation.moments)
            self.num_timesteps += played.evaluation.steps
            self.num_episodes += played.evaluation.lengths.size
            self.num_queries += 1
            self.last_round = played
            self.ep_info_buffer.extend(played.episodes())
            self.log_values = logged(played, self)
        self._sync()

    # ---- acting, and what callbacks use

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """The actions of the current point for one raw observation or a batch, without exploration."""
        space = self.observation_space
        if isinstance(observation, dict):
            observation = {key: np.asarray(value) for key, value in observation.items()}
        else:
            observation = np.asarray(observation)
        try:
            batched = is_vectorized_observation(observation, space)
        except ValueError as error:
            raise SpaceError(f"the observation does not fit: {' '.join(str(error).split())}") from None
        if not batched:
            observation = (
                {key: value[None] for key, value in observation.items()}
                if isinstance(observation, dict)
                else observation[None]
            )
        inputs = inputs_of(self.policy_vector, space, observation)
        if self.normalizer.size is not None:
            inputs = self.normalizer.apply(inputs)
        actions = self.policy_vector.act(self._acting, inputs)
        if isinstance(self.action_space, gymnasium.spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high).astype(self.action_space.dtype)
        return (actions if batched else actions[0]), state

    def counted(self, total_timesteps: int) -> Counted:
        """The progress of a run: its rounds or episodes if they are limited, else its steps."""
        return budget_of(
            self.config, total_timesteps, isinstance(getattr(self.optimizer, "search", self.optimizer), ZORankSGD)
        )

    @property
    def point(self) -> FloatArray:
        """The parameters found so far, ``[d]``."""
        return self.optimizer.point

    def set_env(self, env: gymnasium.Env[Any, Any] | VecEnv | EnvSettings | str, force_reset: bool = True) -> None:
        """Searches in ``env`` from now on; see the constructor.

        :param force_reset: no effect, because every round begins with a reset
        :raises SpaceError: its spaces are not those of the policy
        """
        opened = open_env(as_vec_env(env), self.config, self.seed, spread=self._spread is not None)
        for name in ("observation_space", "action_space"):
            own, other = getattr(self, name, None), getattr(opened, name)
            if own is not None and own != other:
                raise SpaceError(f"the environment has the {name} {other}, the policy was made for {own}")
        if not hasattr(self, "optimizer"):
            self._make(opened.observation_space, opened.action_space)
        self.env = opened

    def get_env(self) -> VecEnv | None:
        """The environments in which candidates act."""
        return self.env

    def get_vec_normalize_env(self) -> None:
        """None: observations are normalised by the search itself."""
        return

    def dump_logs(self) -> None:
        """Writes a row of the log."""
        for name, value in self.log_values.items():
            self.logger.record(name, value)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    # ---- saving

    def training_trees(self) -> dict[str, Any]:
        """The state of the search, for a checkpoint of a run; environments have none between rounds."""
        return {"agent": policy_saving.tree_of(self)}

    def restore_training(self, trees: Mapping[str, Any]) -> str | None:
        """Puts a search of the same settings where :meth:`training_trees` found it.

        :raises CheckpointError: the state is of another search, or malformed
        """
        if "agent" not in trees:
            raise CheckpointError("the checkpoint has no agent: it holds no such search")
        policy_saving.restore(self, trees["agent"])
        return None

    def save(self, path: str | Path) -> Path:
        """Writes a folder of safetensors and JSON, never a pickle; replaces a saved search as a whole.

        :raises CheckpointError: if the file system refuses, or ``path`` holds something else
        """
        return policy_saving.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, env: Any = None, device: str = "auto", **given: Any) -> Self:
        """Reads what :meth:`save` wrote; executes nothing that the files say.

        :param env: to continue in
        :param given: ``policy`` or ``oracle``, where the search had one that files do not hold; ``engine``
        :raises CheckpointError: the folder is missing, damaged, or of another kind
        """
        return policy_saving.load(cls, Path(path), env, device, given)


_INIT: Any = RankedPolicySearch.__init__
_INIT.__signature__ = full_signature(_INIT, None, config=ZORankSGDConfig)


def oracle_of(config: ZORankSGDConfig) -> Oracle | None:
    """The oracle that the settings name; None for people."""
    if config.oracle == "human":
        return None
    if config.oracle == "return":
        return ReturnOracle()
    return person(
        config.temperature,
        config.closeness,
        config.flip_probability,
        config.lazy_probability,
        config.abstain_probability,
    )
