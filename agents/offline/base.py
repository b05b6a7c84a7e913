"""Base of the offline learners: Stable-Baselines3's interface, training from data, fine-tuning in an environment."""

import copy
import inspect
import math
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from rlopt.agents.offline.config import ModelConfig, OfflineConfig
from rlopt.agents.offline.fine_tuning import OfflineVecEnv
from rlopt.agents.offline.learner import Learner, loaded_dataset
from rlopt.agents.offline.policy import OfflinePolicy
from rlopt.agents.offline.update import OfflineStep, Source
from rlopt.algorithms.arguments import check_counted_from_zero, check_observation_space, checked
from rlopt.algorithms.initialization import ActorLayers, linear_layers
from rlopt.algorithms.resumable import named_policy_kwargs, training_env, with_settings_of
from rlopt.data.dataset import Dataset
from rlopt.data.environment import spaces_of
from rlopt.errors import ConfigError, NonFiniteError, SpaceError, require
from rlopt.nn.encoders import channels_first
from rlopt.optim.compiled_step import CompileChoice, Mode, Precision, choose_mode
from rlopt.settings.fields import check_arguments

BLOCK = 100
"""Gradient steps between two boundaries of offline training: checkpoints and evaluations fall on its multiples."""


class OfflineAlgorithm(Learner):
    """Base of the offline learners.

    ``learn(n)`` takes n **gradient steps** on the data set and acts in no environment: ``num_timesteps``, callbacks,
    checkpoints and logs count gradient steps. After ``set_env(env)`` the model is fine-tuned: ``learn(n)`` then
    collects n environment steps into a replay buffer that begins with the data set, as any off-policy algorithm does.
    :meth:`set_dataset` goes back to training from data.

    :param policy: "MlpPolicy", or for Dict observations "MultiInputPolicy" and for images "CnnPolicy" (all the same
        class), or an OfflinePolicy class
    :param env: a data set or the path of one, or what tells the spaces: an environment, a VecEnv or an id. Nothing acts
        in it
    :param dataset: a :class:`rlopt.data.Dataset`, or a folder, file or name that ``rlopt.data.load_dataset`` reads
    :param own: ``gamma`` and ``tau``, of the learners that have them; all settings are explained where they are
        declared, in :mod:`rlopt.agents.offline.config`
    :param policy_kwargs: of :class:`rlopt.agents.offline.policy.OfflinePolicy`; ``activation_fn`` and
        ``optimizer_class`` may be names. Steps of other optimisers than plain Adam are not compiled
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without a data set
    :raises rlopt.errors.DataError: for a data set that is damaged or does not fit the spaces
    :raises rlopt.errors.SpaceError: for actions or observations that cannot be used
    :raises rlopt.errors.NonFiniteError: from ``learn``, when a loss is NaN or infinite. Nothing was updated with it
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": OfflinePolicy,
        "MultiInputPolicy": OfflinePolicy,
        "CnnPolicy": OfflinePolicy,
    }
    state_attributes: ClassVar[tuple[str, ...]] = ("data_fingerprint", "reward_range_scale")
    unsaved: ClassVar[tuple[str, ...]] = (
        "dataset", "_data", "_held_out", "_rows", "_networks", "_step", "online", "data_return", "_last_q", "_warned",
    )  # fmt: skip
    profiled_sections: ClassVar[dict[str, str]] = {"_train_block": "update", "_store_transition": "store"}
    step_unit: ClassVar[str] = "gradient steps"

    config_class: ClassVar[type[OfflineConfig]]
    """The declaration of a learner's settings, which its constructor takes beside those of this class."""
    compile: CompileChoice
    precision: Precision = "float32"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "config_class" in vars(cls) and "__init__" not in vars(cls):

            def constructor(self: Any, policy: Any, env: Any, **settings: Any) -> None:
                OfflineAlgorithm.__init__(self, policy, env, **settings)

            config: Any = cls.config_class
            own = with_settings_of(OfflineAlgorithm, config=config, **getattr(config, "run_defaults", {}))
            cls.__init__ = own(constructor)  # type: ignore[method-assign]

    @checked
    def __init__(
        self,
        policy: str | type[OfflinePolicy],
        env: Dataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = OfflineConfig.learning_rate,
        batch_size: int = OfflineConfig.batch_size,
        dataset: Dataset | str | Path | None = None,
        normalize_observations: bool = ModelConfig.normalize_observations,
        normalize_rewards: bool = ModelConfig.normalize_rewards,
        reward_scale: float = OfflineConfig.reward_scale,
        reward_shift: float = OfflineConfig.reward_shift,
        validation_fraction: float = OfflineConfig.validation_fraction,
        buffer_size: int = ModelConfig.buffer_size,
        train_freq: int = ModelConfig.train_freq,
        gradient_steps: int = ModelConfig.gradient_steps,
        exploration_noise: float = ModelConfig.exploration_noise,
        compile: CompileChoice = OfflineConfig.compile,
        precision: Precision = OfflineConfig.precision,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **own: Any,
    ) -> None:
        names = set(inspect.signature(OfflineAlgorithm.__init__).parameters) - {"self", "env", "own", "dataset"}
        settings = {name: value for name, value in locals().items() if name in names}
        settings = {**settings, **own, "policy_kwargs": copy.deepcopy(policy_kwargs)}
        del settings["_init_setup_model"]
        check_arguments(OfflineConfig, settings)
        check_arguments(ModelConfig, settings)
        for name in ("normalize_observations", "normalize_rewards", "validation_fraction", "exploration_noise"):
            setattr(self, name, settings[name])
        for name in ("reward_scale", "reward_shift", "compile", "precision", *own):
            setattr(self, name, settings[name])
        if isinstance(env, str) and env not in gymnasium.registry and Path(env).exists():
            env = loaded_dataset(env)
        if isinstance(env, Dataset):
            require(dataset is None, "two data sets were given: give one, as env or as dataset")
            env, dataset = None, env
        loaded = None if dataset is None else loaded_dataset(dataset)
        require(
            not (_init_setup_model and env is None and loaded is None),
            f"{type(self).__name__} was given neither a data set nor an environment: give rlopt.data.load_dataset(...)",
        )
        placeholder = self._placeholder(env, loaded, verbose)
        super().__init__(
            policy,
            placeholder,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            0,
            batch_size,
            settings.get("tau", 0.005),
            settings.get("gamma", 0.99),
            train_freq,
            gradient_steps,
            policy_kwargs=named_policy_kwargs(policy_kwargs),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
        )
        self.constructor_settings = settings
        self.data_fingerprint, self.reward_range_scale = "", 1.0
        self.online = False
        self._forget()
        if _init_setup_model:
            self._setup_model()
        if loaded is not None:
            self.set_dataset(loaded)

    def _placeholder(self, env: Any, dataset: Dataset | None, verbose: int) -> OfflineVecEnv | None:
        if env is None and dataset is None:
            return None
        if env is None:
            assert dataset is not None
            observation_space, action_space = spaces_of(dataset)
        else:
            given: Any = training_env(env, verbose)
            observation_space, action_space = given.observation_space, given.action_space
            if isinstance(env, str):
                given.close()
        observation_space = channels_first(observation_space)
        check_model_spaces(
            type(self).__name__,
            observation_space,
            action_space,
            discrete=self.discrete_actions,
            several=self.several_choices,
            images=self.sees_images,
        )
        return OfflineVecEnv(1, observation_space, action_space)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, needs=self.needs(), **self.policy_kwargs
        ).to(self.device)  # type: ignore[assignment]
        self._convert_train_freq()
        self._networks = self._step = None

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Takes ``total_timesteps`` gradient steps on the data; after ``set_env``, that many environment steps.

        :param log_interval: blocks of 100 gradient steps between two rows of the log (episodes after ``set_env``)
        :raises rlopt.errors.ConfigError: without data
        :raises rlopt.errors.NonFiniteError: for a loss that is NaN or infinite
        """
        name = tb_log_name or type(self).__name__
        if self._data is None:
            raise ConfigError(
                f"{type(self).__name__} learns from data and has none: give dataset=..., or call set_dataset"
            )
        if self.online:
            return super().learn(total_timesteps, callback, log_interval or 4, name, reset_num_timesteps, progress_bar)
        if not isinstance(self.env, OfflineVecEnv):
            self.env, self.n_envs = OfflineVecEnv(1, self.observation_space, self.action_space), 1
            self._last_obs = None
        total, callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, name, progress_bar)
        callback.on_training_start(locals(), globals())
        blocks = 0
        while self.num_timesteps < total and self.at_boundary():
            self._check_fingerprint()
            if not self._train_block(min(BLOCK, total - self.num_timesteps), callback):
                break
            blocks += 1
            if log_interval is not None and blocks % log_interval == 0:
                self.dump_logs()
        callback.on_training_end()
        self._judge_q()
        return self

    def _train_block(self, steps: int, callback: BaseCallback) -> bool:
        """Gradient steps up to the next boundary; returns whether the callbacks let training continue."""
        assert self._data is not None
        # What callbacks look for in the local variables of a rollout: no environment was stepped.
        stepped = {"dones": np.zeros(0, bool), "infos": [], "rewards": np.zeros(0, np.float32)}

        def after() -> bool:
            self.num_timesteps += 1
            callback.update_locals(stepped)
            return callback.on_step()

        callback.on_rollout_start()
        goes_on = self._gradient_steps(self._data, steps, self._total_timesteps, after)
        callback.on_rollout_end()
        return goes_on

    def _gradient_steps(self, source: Source, steps: int, planned: int, after: Any) -> bool:
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        mode: Mode = "eager"
        if self.networks.compilable:
            mode = choose_mode(self.compile, self.device, planned, precision=self.precision)
        elif self.precision == "bf16":
            raise ConfigError(
                "only steps of plain Adam without images are compiled, which precision bf16 needs: use float32"
            )
        wanted = mode, self.precision
        if self._step is None or (self._step.mode, self._step.precision) != wanted or not self._step.reads(source):
            self._step = OfflineStep(self, source, mode)
        goes_on = self._step.take(steps, self.batch_size, after)
        for name, value in self._step.statistics().items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name.replace('_', ' ')} is NaN or infinite before gradient step {self._n_updates}: check the "
                    "rewards' size or lower the learning rate"
                )
            self.logger.record_mean(f"train/{name}", value)
            if name == "q_value" and self.data_return is not None and not self.online:
                self.logger.record("train/data_return", self.data_return[0])
                self._compare_q(value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/learning_rate", self.coefficient("learning_rate"))
        return goes_on

    def actor_layers(self) -> ActorLayers | None:
        """The actor as layers of raw observations, for :func:`rlopt.algorithms.initialization.begin_from`.

        Its normalisation becomes a part of the first one.
        """
        policy = self.policy
        found = linear_layers(policy.actor.network)
        if found is None or policy.actor.encoder is not None or policy.actor.function.kind == "squashed":
            return None
        layers = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in found[0]]
        weight, bias = layers[0]
        weight = weight / policy.observation_std
        layers[0] = weight, bias - weight @ policy.observation_mean
        discrete = policy.actor.function.kind == "categorical"
        log_std = policy.actor.log_std
        return ActorLayers(
            layers, found[1], "logits" if discrete else "squashed", None if log_std is None else log_std.detach()
        )

    # Saving.

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{name}" for name in self.policy.optimizer_names())], []


__all__ = ["BLOCK", "OfflineAlgorithm", "OfflineVecEnv"]


SMALLEST_SIDE = 36
"""Height and width from which Stable-Baselines3's NatureCNN has an output."""


def check_model_spaces(
    name: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    discrete: bool,
    several: bool = False,
    images: bool = False,
) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for spaces that the learner ``name`` cannot use.

    :param observation_space: images have their channels first
    :param discrete: whether it can use Discrete actions
    :param several: whether it can use MultiDiscrete ones, of one axis and counted from 0
    :param images: whether it can see images
    """
    check_observation_space(observation_space)
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for shape in [part.shape or () for part in parts if is_image_space(part)]:
        if not images:
            raise SpaceError(
                f"observations are images, which {name} does not encode: give them features instead, or learn from "
                "demonstrations with rlopt.BC, rlopt.DAC or rlopt.AILBoost"
            )
        if min(shape[1:]) < SMALLEST_SIDE:
            raise SpaceError(
                f"images of {shape[1]} x {shape[2]} pixels are too small for the encoder: make them {SMALLEST_SIDE} x "
                f"{SMALLEST_SIDE} or larger"
            )
    if isinstance(action_space, spaces.Discrete):
        if not discrete:
            raise SpaceError(f"{name} needs continuous actions, not {action_space}: use BC, AWAC or IQL")
        check_counted_from_zero(action_space, "the action space")
        return
    if several and isinstance(action_space, spaces.MultiDiscrete):
        if action_space.nvec.ndim != 1 or action_space.start.any():
            raise SpaceError(f"the action space {action_space} is not of one axis and counted from 0: make it so")
        return
    if not isinstance(action_space, spaces.Box):
        kinds = "Box or Discrete" if discrete else "Box"
        raise SpaceError(f"{name} needs a {kinds} action space, not {type(action_space).__name__}")
    if len(action_space.shape) != 1:
        raise SpaceError(f"the action space has shape {action_space.shape}: flatten it to one axis")
    from rlopt.agents.sac.checks import check_spaces

    check_spaces(observation_space, action_space, name)
