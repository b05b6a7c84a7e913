"""The parts that every deep agent adds to its Stable-Baselines3 base, for checks and exact resume."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import gymnasium
import torch
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rlopt.algorithms.arguments import check_learning, check_observations, refuse_unknown
from rlopt.algorithms.overrides import check_overrides
from rlopt.algorithms.zip_loading import agent_class, load_zip
from rlopt.envs.backends.vector_env import as_vec_env
from rlopt.envs.outcomes import CheckedEnv
from rlopt.errors import ConfigError, require, unknown_name
from rlopt.nn.encoders import ENCODERS
from rlopt.optim.lockstep import wait_for_other_runs
from rlopt.optim.optimizers import check_optimizer, optimizer_by_name
from rlopt.replay.rows import cut_episodes
from rlopt.settings.fields import check_arguments
from rlopt.state.envs import on_host
from rlopt.storage.tree import Tree

F = TypeVar("F", bound=Callable[..., None])

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


class Resumable:
    """Mixin placed before the Stable-Baselines3 base class.

    A *boundary* is the moment between two rollouts, after the update and before the next action: the only place where
    a checkpoint is taken, because everything that the next step depends on is then in the model's state.
    """

    state_attributes: ClassVar[tuple[str, ...]] = ()
    """Plain attributes (numbers, strings, arrays) that belong to the training state, beyond Stable-Baselines3's own."""

    later_attributes: ClassVar[tuple[str, ...]] = ()
    """Those of ``state_attributes`` that checkpoints of version 0.1 do not have; they begin as the constructor says."""

    of_its_own: ClassVar[tuple[str, ...]] = ()
    """Settings that the Stable-Baselines3 class below has by the same name with another meaning."""

    profiled_sections: ClassVar[dict[str, str]] = {}
    """Method -> its section of ``rlopt train --profile``, see :mod:`rlopt.loggers.profiler`."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Settings of other agents that people look for here -> what there is in their place, in words."""

    made_from: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Setting -> the parameters, tensors and ``state_attributes`` that begin as it says: given anew to :meth:`load`, it
    begins them anew."""

    settled: ClassVar[tuple[str, ...]] = ()
    """Settings that what was trained depends on, so that they cannot be given anew to :meth:`load`."""

    made_with: ClassVar[tuple[str, ...]] = ()
    """Settings that parts of the model were made with: training refuses other values that were assigned since."""

    saved_modules: ClassVar[tuple[str, ...]] = ()
    """Modules and optimisers beyond Stable-Baselines3's that :meth:`save` keeps where they are not None: paths."""

    saved_tensors: ClassVar[tuple[str, ...]] = ()
    """Tensors likewise."""

    unsaved: ClassVar[tuple[str, ...]] = ()
    """Attributes that :meth:`save` leaves out. Of these three a class names its own, beside those of its bases."""

    saved_by: str
    """The agent's class, in a zip of :meth:`save`."""

    constructor_settings: dict[str, Any]
    """The constructor's keyword arguments as given, without ``env``: a checkpoint rebuilds the model from them."""

    boundary_hook: Callable[[Any], bool] | None = None
    """Called with the model at every boundary; returning False ends ``learn``. Set by :mod:`rlopt.runs.train`."""

    observation_statistics: Any = None
    """A VecNormalize whose statistics :meth:`predict` applies to raw observations. Set by :func:`rlopt.load`."""

    wrapper_statistics: Any = ()
    """Statistics of Gymnasium's normalising wrappers in the environments of the training. Set by :func:`rlopt.load`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not cls.__module__.startswith("rlopt."):
            check_overrides(cls)

    def at_boundary(self) -> bool:
        """Runs the boundary hook; returns whether training continues. Call first thing in ``collect_rollouts``.

        :raises rlopt.errors.ConfigError: for a model whose statistics of observations have lost their VecNormalize, or
            one with another value of a setting that holds from the constructor on
        """
        wait_for_other_runs()
        for name in self.made_with:
            value = getattr(self, name)
            first = self.constructor_settings.get(name, value)
            if value != first and not (isinstance(value, tuple | list) and list(value) == list(first or ())):
                raise ConfigError(
                    f"{name} was made {first!r} and cannot become {value!r} by assignment: give it to the constructor, "
                    f"or to {type(self).__name__}.load"
                )
        if self.observation_statistics is not None:
            raise ConfigError(
                "this model was trained on normalised observations: wrap its environment in VecNormalize before more "
                "training (set_env fills in the statistics)"
            )
        return self.boundary_hook is None or self.boundary_hook(self)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """As Stable-Baselines3's ``predict``; a loaded model normalises raw observations as in its training.

        With a VecNormalize environment set, observations are expected as that environment gives them.
        """
        if self.observation_statistics is not None:
            observation = self.observation_statistics.normalize_obs(observation)
        return super().predict(observation, *args, **kwargs)  # type: ignore[misc]

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """As Stable-Baselines3's ``save``; a setting that is excluded has its default in what is loaded."""
        excluded, settings = set(exclude or ()) - set(include or ()), self.constructor_settings
        self.constructor_settings = {name: value for name, value in settings.items() if name not in excluded}
        self.saved_by = agent_class(type(self)).__name__
        try:
            super().save(path, exclude, include)  # type: ignore[misc]
        finally:
            self.constructor_settings = settings
            del self.saved_by

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **settings: Any,
    ) -> Self:
        """As Stable-Baselines3's ``load``, from a zip of ``save``. It unpickles: only for files that you trust.

        A zip of the Stable-Baselines3 class below this one begins a model of this class: with its networks, its
        optimisers where they fit, and the settings that both have.

        :param settings: settings of the constructor, in place of those in the file. Each holds as if it had been given
            there
        :raises rlopt.errors.ConfigError: a setting that the constructor refuses, in its words
        :raises rlopt.errors.CheckpointError: the file holds no model, or networks that do not fit
        """
        return load_zip(cls, path, env, device, custom_objects, print_system_info, force_reset, settings)

    def fitted_parameters(self, parameters: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a zip of the Stable-Baselines3 class below, or of an older version, as this class has them.

        :param data: the attributes in the zip
        """
        return parameters

    def fitted_networks(self, networks: Tree) -> Tree:
        """The networks of a checkpoint (:mod:`rlopt.state.networks`) as this version has them."""
        return networks

    def _setup_model(self) -> None:
        check_observations(self)
        super()._setup_model()  # type: ignore[misc]

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        check_learning(total_timesteps, bool(kwargs.get("progress_bar", args[1] if len(args) > 1 else False)))
        model: Any = self
        model._last_obs = on_host(model._last_obs)
        if reset_num_timesteps or model._last_obs is None:
            cut_episodes(getattr(self, "replay_buffer", None))  # the environment is about to be reset
        setup: Any = super()._setup_learn  # type: ignore[misc]
        result: tuple[int, BaseCallback] = setup(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        return result

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As Stable-Baselines3's, for constructors, ``set_env`` and ``load``; vector environments of others as well."""
        # Checked under the Monitor that Stable-Baselines3 adds. An environment that has one already is left as it is,
        # because VecEnv.set_attr sets attributes of the outermost wrapper.
        if isinstance(env, gymnasium.Env) and monitor_wrapper and not is_wrapped(env, Monitor):
            env = CheckedEnv(env)
        return BaseAlgorithm._wrap_env(as_vec_env(env), verbose, monitor_wrapper)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As Stable-Baselines3's ``set_env``; the statistics of a loaded model go into a VecNormalize environment."""
        super().set_env(env, force_reset)  # type: ignore[misc]
        buffer = getattr(self, "replay_buffer", None)
        if hasattr(buffer, "env"):  # hindsight goals need the environment's rewards
            buffer.env = self.env  # type: ignore[attr-defined, union-attr]
        own: Any = getattr(self, "_vec_normalize_env", None)
        from rlopt.state.envs import capture_normalization, give_wrapper_statistics, restore_normalization

        give_wrapper_statistics(self.env, self.wrapper_statistics)  # type: ignore[attr-defined]
        if self.observation_statistics is not None and own is not None:
            state = capture_normalization(self.observation_statistics)
            restore_normalization(own, state, statistics_only=True)
            self.observation_statistics = None

    def _excluded_save_params(self) -> list[str]:
        hooks = ["boundary_hook", "observation_statistics", "wrapper_statistics"]
        parts = [name.partition(".")[0] for kind in ("saved_modules", "saved_tensors") for name in self._of_all(kind)]
        return [*super()._excluded_save_params(), *hooks, *self._of_all("unsaved"), *parts]  # type: ignore[misc]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()  # type: ignore[misc]
        return [*modules, *self._there("saved_modules")], [*tensors, *self._there("saved_tensors")]

    def _of_all(self, kind: str) -> list[str]:
        """What this class and all above it name in the attribute ``kind``."""
        return [name for cls in type(self).__mro__ for name in vars(cls).get(kind, ())]

    def _there(self, kind: str) -> list[str]:
        def below(part: Any, name: str) -> Any:
            return None if part is None else getattr(part, name)

        return [path for path in self._of_all(kind) if functools.reduce(below, path.split("."), self) is not None]


def training_env(env: GymEnv | str, verbose: int) -> GymEnv:
    """``env``, or the environment of that id: as in Gymnasium, or what it does not have by :func:`rlopt.make_env`.

    Vector environments of Gymnasium and EnvPool become a ``VecEnv``, see :mod:`rlopt.envs.backends.vector_env`.
    """
    made = None
    if not (isinstance(env, str) and env.startswith("dm_control/")):
        with contextlib.suppress(gymnasium.error.UnregisteredEnv):
            made = maybe_make_env(env, verbose)
    if made is None:
        from rlopt.envs.make import make_env

        return make_env(str(env))
    vectorized: GymEnv = as_vec_env(made)
    return vectorized


def named_policy_kwargs(policy_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Replaces names such as ``activation_fn="tanh"``, ``optimizer_class="adam"`` and
    ``features_extractor_class="drqv2"`` by their classes, and tries the optimiser out.

    Raises :class:`rlopt.errors.UnknownNameError` for a name that is not in the tables of this module, of
    :mod:`rlopt.nn.encoders` and of :mod:`rlopt.optim.optimizers`, :class:`rlopt.errors.ConfigError` for an optimiser
    that cannot be used (:func:`rlopt.optim.optimizers.check_optimizer`).
    """
    resolved = dict(policy_kwargs or {})
    tables: dict[str, Mapping[str, type]] = {"activation_fn": ACTIVATIONS, "features_extractor_class": ENCODERS}
    for key, table in tables.items():
        name = resolved.get(key)
        if isinstance(name, str):
            if name not in table:
                raise unknown_name(key, name, table)
            resolved[key] = table[name]
    chosen = resolved.get("optimizer_class")
    if isinstance(chosen, str):
        chosen = resolved["optimizer_class"] = optimizer_by_name(chosen)
    options = resolved.get("optimizer_kwargs")
    if chosen is not None or options:
        check_optimizer(chosen or torch.optim.Adam, options or {})
    return resolved


def with_settings_of(base: type, *without: str, config: type | None = None, **defaults: Any) -> Callable[[F], F]:
    """For a constructor that hands ``**settings`` on to ``base``: its signature lists them, with these ``defaults``.

    Settings that neither it nor ``base`` names become attributes before it runs, and are added to
    ``constructor_settings`` after it, where those of ``without`` are left out.

    :param without: settings of ``base`` that are not taken
    :param config: the declaration of the agent's settings: those that are constructor arguments are listed with its
        defaults, and the arguments are checked against it
    """

    def decorate(constructor: F) -> F:
        signature = full_signature(constructor, base, *without, config=config, **defaults)
        constructors = (constructor, *(parent.__init__ for parent in base.__mro__))  # type: ignore[misc]
        named = {name for taker in constructors for name in inspect.signature(taker).parameters}

        @functools.wraps(constructor)
        def complete(self: Any, *args: Any, **settings: Any) -> None:
            refused = sorted(set(settings) & set(without))
            require(not refused, f"{type(self).__name__} has no setting {', '.join(refused)}: leave it out")
            refuse_unknown(type(self), settings, signature)
            given = signature.bind(self, *args, **settings)
            given.apply_defaults()
            if config is not None:
                check_arguments(config, given.arguments)
            own = {name: value for name, value in given.arguments.items() if name not in named}
            for name, value in own.items():
                setattr(self, name, value)
            constructor(**{name: value for name, value in given.arguments.items() if name in named})
            kept = {name: value for name, value in self.constructor_settings.items() if name not in without}
            self.constructor_settings = kept | own

        complete.__signature__ = signature  # type: ignore[attr-defined]
        return complete  # type: ignore[return-value]

    return decorate


def full_signature(
    constructor: Callable[..., None], base: type | None, *without: str, config: type | None = None, **defaults: Any
) -> inspect.Signature:
    """The signature of :func:`with_settings_of`: ``**settings`` are those of ``config`` and of ``base``.

    What ``base`` takes by position is taken so here too, if the constructor begins as that of ``base`` does and leaves
    nothing out.
    """
    own = inspect.signature(constructor)
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    declared = () if config is None else config().algorithm_kwargs()
    listed = {name: getattr(config, name, None) for name in declared}
    shared = {} if base is None else inspect.signature(base.__init__).parameters  # type: ignore[misc]
    for name, parameter in shared.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and (name not in listed or not hasattr(config, name)):
            listed[name] = parameter.default
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    order = [name for name, parameter in shared.items() if parameter.kind is by_position]
    first = [parameter.name for parameter in named if parameter.kind is by_position]
    positions = order if order[: len(first)] == first and not without else first
    taken = {"self", *without, *(parameter.name for parameter in named)}
    for name, default in listed.items():
        if name not in taken:
            kind = by_position if name in positions else inspect.Parameter.KEYWORD_ONLY
            named.append(inspect.Parameter(name, kind, default=defaults.get(name, default)))
    named.sort(
        key=lambda parameter: positions.index(parameter.name) if parameter.kind is by_position else len(positions)
    )
    return own.replace(parameters=named)
