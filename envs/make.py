"""``rlopt.make_env``: one call for every environment, on either backend."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium

from rlopt.envs import names, rendering
from rlopt.envs.backends.pool_support import envpool_problem, import_envpool
from rlopt.envs.calls import call
from rlopt.envs.settings import EnvSettings
from rlopt.envs.tables import DM_CONTROL_EPISODE_STEPS, POOL_TASKS
from rlopt.errors import ConfigError, EnvFaultError, one_line, refuse_unknown_arguments

if TYPE_CHECKING:
    from rlopt.envs.backends.envpool_vec import EnvPoolVecEnv
    from rlopt.envs.backends.gymnasium_vec import GymnasiumVecEnv
    from rlopt.envs.backends.warp_vec import WarpVecEnv

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["EnvSettings", "make_env", "make_from_settings"]

AUTO_POOL_ENVS = 4
"""Copies from which ``auto`` takes EnvPool: its call costs about 0.1 ms whatever the number of environments."""

NEEDS_GL = ("dm_control/quadruped-escape",)
"""Tasks whose reset makes a rendering context even where nothing is drawn."""


def _named(function: F) -> F:
    """Refuses arguments that ``function`` does not have, in one line."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Any, **settings: Any) -> Any:
        refuse_unknown_arguments("rlopt.make_env", settings, known, {"env_id": "give the id first"})
        return function(*args, **settings)

    return checked  # type: ignore[return-value]


@_named
def make_env(
    id: str,
    n_envs: int = 1,
    seed: int = 0,
    backend: str = "auto",
    *,
    action_repeat: int = 1,
    frame_stack: int = 1,
    from_pixels: bool = False,
    image_size: int = 84,
    camera_id: int = 0,
    fast_render: bool = False,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    num_threads: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
) -> GymnasiumVecEnv | EnvPoolVecEnv | WarpVecEnv:
    """Makes ``n_envs`` copies of an environment behind one Stable-Baselines3 ``VecEnv``.

    Observations are float32 (flat for ``dm_control/*``), rewards float32 [n_envs], actions clipped to their bounds.
    An episode that ends is reset in the same step: ``infos[i]["terminal_observation"]`` has its last observation and
    ``infos[i]["TimeLimit.truncated"]`` is True if it was cut off rather than ended. The result also has ``settings``,
    ``get_state()`` and ``set_state(state)``. :class:`EnvSettings` explains each argument.

    :param id: ``dm_control/<domain>-<task>`` or any Gymnasium id
    :param backend: ``auto``, ``envpool``, ``gymnasium``, or ``warp``, which simulates dm_control on ``device``
    :raises UnknownNameError: for an id that does not exist, with the nearest one
    :raises ConfigError: for an argument out of range, or a backend that cannot be used, with the cure
    :raises EnvFaultError: the environment's constructor raised an error
    """
    settings = EnvSettings(
        id=id,
        n_envs=n_envs,
        seed=seed,
        backend=backend,
        action_repeat=action_repeat,
        frame_stack=frame_stack,
        from_pixels=from_pixels,
        image_size=image_size,
        camera_id=camera_id,
        fast_render=fast_render,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
        num_threads=num_threads,
        env_kwargs=env_kwargs,
        device=device,
    )
    return make_from_settings(settings)


def make_from_settings(settings: EnvSettings) -> GymnasiumVecEnv | EnvPoolVecEnv | WarpVecEnv:
    """:func:`make_env` for settings that are already together."""
    rendering.prepare_state()
    names.check_id(settings.id)
    settings = dataclasses.replace(settings, backend=resolve_backend(settings))
    if settings.backend == "envpool":
        from rlopt.envs.backends.envpool_vec import EnvPoolVecEnv

        return EnvPoolVecEnv(settings)
    if settings.backend == "warp":
        from rlopt.envs.backends.warp_vec import WarpVecEnv

        return WarpVecEnv(settings)
    return _make_gymnasium(settings)


def resolve_backend(settings: EnvSettings) -> str:
    """The backend that :func:`make_env` uses: the one asked for; with ``auto`` EnvPool where it is the better choice.

    :raises ConfigError: when one is asked for that cannot be used, with the cure
    """
    if settings.backend == "gymnasium":
        return "gymnasium"
    if settings.backend == "warp":
        _check_warp(settings)
        return "warp"
    obstacle = _pool_obstacle(settings)
    if settings.backend == "envpool":
        if obstacle is not None:
            raise ConfigError(f"backend 'envpool': {obstacle}; use backend='gymnasium'")
        import_envpool()
        return "envpool"
    wanted = obstacle is None and settings.n_envs >= AUTO_POOL_ENVS and not settings.from_pixels
    if not wanted or (problem := envpool_problem()):
        if wanted and find_spec("envpool"):
            warnings.warn(f"Gymnasium simulates {settings.id}, which is slower: {problem}", stacklevel=4)
        return "gymnasium"
    return "envpool"


def _pool_obstacle(settings: EnvSettings) -> str | None:
    """What in the settings EnvPool cannot do, in words."""
    if settings.id not in POOL_TASKS:
        return f"no version of {settings.id} that is tested to be the same"
    if settings.render_mode is not None:
        return "it gives no videos"
    if settings.env_kwargs:
        return "it does not take env_kwargs"
    if settings.fast_render:
        return "it has no fast_render"
    return None


def _check_warp(settings: EnvSettings) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for settings that the warp backend does not have."""
    if not names.is_dm_control(settings.id):
        raise ConfigError(f"backend 'warp' simulates tasks of dm_control only, not {settings.id}: use backend='auto'")
    defaults = EnvSettings(settings.id)
    refused = ("frame_stack", "from_pixels", "fast_render", "render_mode", "env_kwargs")
    given = [name for name in refused if getattr(settings, name) != getattr(defaults, name)]
    if given:
        raise ConfigError(f"backend 'warp' does not take {', '.join(given)}: leave it out, or use backend='gymnasium'")


def make_state_and_pixels(settings: EnvSettings) -> GymnasiumVecEnv:
    """As :func:`make_env`, with observations {"state", "pixels"}: what ``from_pixels`` shows, and the state it is of.

    :param settings: without ``from_pixels``; made on the gymnasium backend
    :raises ConfigError: when no GL library is found, or the state is a dictionary itself
    """
    from rlopt.envs.pixels import PixelObservation, StateAndPixels

    rendering.prepare_state()
    names.check_id(settings.id)
    drawn = dataclasses.replace(settings, from_pixels=True, backend="gymnasium")

    def make(seed: int) -> gymnasium.Env[Any, Any]:
        env = make_single(drawn, seed)
        assert isinstance(env, PixelObservation)
        if isinstance(env.env.observation_space, gymnasium.spaces.Dict):
            raise ConfigError(f"{settings.id} observes a dictionary, to which no images are added: leave pixels out")
        return StateAndPixels(env, settings.action_repeat)

    return _make_gymnasium(dataclasses.replace(settings, backend="gymnasium"), make, drawn=True)


def _make_gymnasium(
    settings: EnvSettings, make: Callable[[int], gymnasium.Env[Any, Any]] | None = None, drawn: bool = False
) -> GymnasiumVecEnv:
    from rlopt.envs.backends.gymnasium_vec import GymnasiumVecEnv
    from rlopt.envs.settings import derive_seeds

    drawn = drawn or settings.from_pixels or settings.render_mode is not None
    # An environment that is not known to draw with MuJoCo (CartPole, a user's own) may draw without GL.
    if settings.id in NEEDS_GL or (drawn and (_draws_with_mujoco(settings.id) or rendering.available_gl())):
        rendering.prepare_rendering()
    seeds = derive_seeds(settings.seed, settings.n_envs)

    def maker(seed: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        return lambda: make_single(settings, seed) if make is None else make(seed)

    return GymnasiumVecEnv([maker(seed) for seed in seeds], settings)


def make_single(settings: EnvSettings, seed: int) -> gymnasium.Env[Any, Any]:
    """One copy on the gymnasium backend, without what the batch adds (float32, action repeat, frame stack)."""
    from rlopt.envs.pixels import PixelObservation

    render_mode = "rgb_array" if settings.from_pixels else settings.render_mode
    if names.is_dm_control(settings.id):
        env = _make_dm_control(settings, seed, render_mode)
    else:
        env = _make_registered(settings, render_mode)
    return PixelObservation(env, settings.image_size) if settings.from_pixels else env


def _make_dm_control(settings: EnvSettings, seed: int, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    from rlopt.envs.dmc import RENDER_SIZE, DMControlEnv

    size = (settings.image_size, settings.image_size) if settings.from_pixels else RENDER_SIZE
    try:
        env = DMControlEnv(
            settings.id.removeprefix(names.DM_CONTROL_PREFIX),
            seed=seed,
            render_mode=render_mode,
            render_size=size,
            camera_id=settings.camera_id,
            fast_render=settings.fast_render,
            task_kwargs=copy.deepcopy(settings.env_kwargs),
        )
    except TypeError as error:
        raise ConfigError(f"{settings.id} does not take env_kwargs {settings.env_kwargs}: {error}") from None
    cameras = env.dm_env.physics.model.ncam
    if (settings.from_pixels or render_mode) and settings.camera_id >= max(cameras, 1):
        raise _no_such_camera(settings, cameras)
    limit = settings.max_episode_steps or DM_CONTROL_EPISODE_STEPS
    return gymnasium.wrappers.TimeLimit(env, limit)


def _make_registered(settings: EnvSettings, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    names.register(settings.id)
    if "mujoco" in sys.modules or _is_mujoco(settings.id):
        rendering.route_warnings()
    kwargs: dict[str, Any] = copy.deepcopy(settings.env_kwargs or {})  # an environment may change what it is given
    if settings.from_pixels and _is_mujoco(settings.id):
        kwargs |= {"width": settings.image_size, "height": settings.image_size, "camera_id": settings.camera_id}
    try:
        env: gymnasium.Env[Any, Any] = call(
            settings.id,
            "__init__",
            gymnasium.make,
            settings.id,
            max_episode_steps=settings.max_episode_steps,
            disable_env_checker=True,
            **({"render_mode": render_mode} if render_mode else {}),
            **kwargs,
        )
    except EnvFaultError as fault:
        if (reason := _not_made(settings, kwargs, fault.__cause__)) is None:
            raise
        raise reason from None
    if settings.from_pixels and hasattr(env.unwrapped, "mujoco_renderer"):
        _choose_camera(env, settings)
    if settings.fast_render:
        _fast_render(env)
    return env


def _not_made(settings: EnvSettings, kwargs: dict[str, Any], error: BaseException | None) -> ConfigError | None:
    """The package that a constructor lacks, or the argument that it does not take; None where it failed by itself."""
    what = f"environment {settings.id!r}"
    # Gymnasium adds the arguments to what it passes on.
    reason = one_line(str(error).partition(" was raised from the environment creator")[0])
    if isinstance(error, gymnasium.error.DependencyNotInstalled | ModuleNotFoundError):
        return ConfigError(f"{what} needs a package that is not installed: {reason}")
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", reason) if isinstance(error, TypeError) else None
    if unexpected and unexpected[1] in kwargs:
        return ConfigError(f"{what} does not take env_kwargs {kwargs}: {reason}")
    if unexpected and unexpected[1] == "render_mode":
        return ConfigError(f"{what} cannot be drawn: its constructor takes no render_mode")
    return None


def _choose_camera(env: gymnasium.Env[Any, Any], settings: EnvSettings) -> None:
    """MuJoCo ends the process at a camera that a model has not."""
    single: Any = env.unwrapped
    cameras = single.model.ncam
    if settings.camera_id < cameras:
        return
    if settings.camera_id > 0:
        raise _no_such_camera(settings, cameras)
    single.mujoco_renderer.camera_id = -1  # the first of none: the free camera, from which videos are drawn


def _no_such_camera(settings: EnvSettings, cameras: int) -> ConfigError:
    choice = {0: "-1", 1: "0"}.get(cameras, f"0 to {cameras - 1}")
    cure = f"give {choice}" + (", the free camera" if not cameras else ", or -1 for the free camera")
    return ConfigError(f"{settings.id} has no camera {settings.camera_id}: {cure}")


def _draws_with_mujoco(env_id: str) -> bool:
    if names.is_dm_control(env_id):
        return True
    names.register(env_id)
    return names.entry_point(env_id).startswith(("gymnasium.envs.mujoco", "gymnasium_robotics"))


def _is_mujoco(env_id: str) -> bool:
    return names.entry_point(env_id).startswith("gymnasium.envs.mujoco")


def _fast_render(env: gymnasium.Env[Any, Any]) -> None:
    from rlopt.envs.dmc import drop_shadows

    model = getattr(env.unwrapped, "model", None)
    if model is None:
        raise ConfigError("fast_render is for MuJoCo environments: leave it False here")
    drop_shadows(model)
