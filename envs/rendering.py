"""Headless OpenGL: chooses a library, and says which package is missing if there is none.

And MuJoCo's warnings as Python log records, instead of a MUJOCO_LOG.TXT in whatever folder the user stands in.
"""

import ctypes
import importlib
import importlib.util
import logging
import os
import sys
from typing import Any

import gymnasium
import numpy as np

from rlopt.envs.calls import call, described
from rlopt.envs.system_packages import APT_EGL, APT_OSMESA
from rlopt.errors import ConfigError, EnvFaultError, OutcomeError

_MUJOCO_LOGGER = logging.getLogger("rlopt.mujoco")
_DISABLED = ("off", "disable", "disabled", "false", "0")
_ENABLED = ("on", "enable", "enabled", "true", "1")
_EGL = ("libEGL.so.1", "libOpenGL.so.0")
_GL_MODULES = (
    "OpenGL", "glfw", "mujoco.egl", "mujoco.glfw", "mujoco.osmesa", "mujoco.gl_context", "mujoco.renderer",
    "dm_control._render", "gymnasium.envs.mujoco.mujoco_rendering",
)  # fmt: skip
"""Modules whose errors mean that an OpenGL library is missing or does not work."""


def available_gl() -> str | None:
    """The headless platform that can be used here: ``egl``, ``osmesa`` or None.

    Only loads the libraries; a machine that has libEGL but no driver is noticed when the first image is drawn.
    """
    if has_egl() and _egl_has_driver():
        return "egl"
    return "osmesa" if has_osmesa() else None


def has_egl() -> bool:
    """Whether EGL is installed, with a driver or without."""
    return all(map(_loads, _EGL))


def has_osmesa() -> bool:
    """Whether the software renderer OSMesa is installed."""
    return _loads("libOSMesa.so.8") or _loads("libOSMesa.so.6")


def drawn_image(env: Any, name: str) -> np.ndarray:
    """What the first environment of a ``VecEnv`` draws: uint8 [height, width, 3].

    :param name: name of the environment, for people
    :raises rlopt.errors.ConfigError: it has no render mode ``rgb_array``, or a package or an OpenGL library is missing
    :raises rlopt.errors.EnvFaultError: its ``render`` raises another error, or returns something else
    """
    try:
        image = call(name, "render", env.get_images)[0]
    except EnvFaultError as error:
        cause = error.__cause__
        if isinstance(cause, NotImplementedError):
            raise ConfigError(f"{name} cannot be drawn: give it a render() for rgb_array") from cause
        if cause is not None and (lack := lack_of_drawing(cause)):
            raise ConfigError(lack) from cause
        raise
    if image is None:
        raise ConfigError(f"{name} draws no images: it has no render mode rgb_array")
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind not in "iu":
        raise OutcomeError(
            f"{name} gave an image of {image.dtype} and shape {image.shape} in render(): make it uint8 of shape "
            "(height, width, 3)"
        )
    return np.ascontiguousarray(image, np.uint8)


def require_pygame(env_id: str) -> None:
    """Checks that an environment of Gymnasium that draws with pygame can be drawn; of others, nothing is known here.

    :raises ConfigError: pygame is not installed
    """
    spec = gymnasium.registry.get(env_id)
    if spec is not None and str(spec.entry_point).startswith(_PYGAME) and importlib.util.find_spec("pygame") is None:
        raise ConfigError(f"videos of {env_id} need pygame: pip install pygame-ce")


_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "gymnasium.envs.toy_text")


def lack_of_drawing(error: BaseException) -> str:
    """What is missing here, in one line, where an error comes from a drawing library; empty for another error."""
    from gymnasium.error import DependencyNotInstalled

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DependencyNotInstalled):  # it names the package itself, such as pygame
            return f"drawing failed ({described(found)})"
        trace = found.__traceback__
        while trace is not None:
            if str(trace.tb_frame.f_globals.get("__name__")).startswith(_GL_MODULES):
                return f"drawing failed ({described(error)}); apt-get install {APT_EGL}, or {APT_OSMESA}"
            trace = trace.tb_next
        found = found.__cause__ or found.__context__
    return ""


def prepare_state() -> None:
    """Before mujoco or dm_control is imported for states alone: asks for no GL, unless the user chose a platform.

    Without this, a machine with no GL library prints warnings or fails at the import.

    :raises ConfigError: when the user's choice is none that MuJoCo knows, which would fail at the import too
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen and chosen not in (*_DISABLED, *_ENABLED, "egl", "osmesa", "glfw", "glx", "cgl", "wgl"):
        raise ConfigError(f"the environment variable MUJOCO_GL is {chosen!r}: set it to egl, osmesa or disable")
    if sys.platform == "linux" and "MUJOCO_GL" not in os.environ and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "disable"


def prepare_rendering() -> str | None:
    """Makes rendering possible in this process, also where :func:`prepare_state` had switched it off.

    :returns: the platform in use; None where the operating system's own default is used
    :raises ConfigError: when no GL library is found, with the command that installs one
    """
    if sys.platform != "linux":
        return None
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if not chosen or chosen in _DISABLED:
        chosen = gl_environment()["MUJOCO_GL"]
        os.environ["MUJOCO_GL"] = chosen
    render = sys.modules.get("dm_control._render")
    if render is not None and chosen != render.BACKEND:
        # dm_control picks its platform when imported, perhaps for states alone: let it pick again.
        importlib.reload(render)
    return chosen


def gl_environment() -> dict[str, str]:
    """Environment variables for a process that renders without a display.

    :raises ConfigError: when no GL library is found, with the command that installs one
    """
    if sys.platform != "linux":
        return {}
    platform = available_gl()
    if platform is None:
        raise ConfigError(
            f"rendering needs a headless OpenGL library: apt-get install {APT_EGL} (or {APT_OSMESA}), "
            "or work from states without video"
        )
    return {"MUJOCO_GL": platform, "PYOPENGL_PLATFORM": platform}


_preloaded: list[bool] = []


def preload_egl() -> None:
    """Puts libEGL and libOpenGL, where they exist, in front of the copies that EnvPool brings and MuJoCo cannot use.

    Works only before envpool is imported, so it is done whether or not pixels will be asked for.
    """
    if not _preloaded:
        _preloaded.append("envpool" not in sys.modules and all(_loads(library, ctypes.RTLD_GLOBAL) for library in _EGL))


def require_pool_pixels() -> None:
    """Checks that EnvPool can draw; where it cannot, its first image would end the process.

    :raises ConfigError: when a library is missing, or envpool was imported before rlopt could prepare it
    """
    if not has_egl():
        raise ConfigError(f"EnvPool's pixels need libEGL: apt-get install {APT_EGL}, or backend='gymnasium'")
    if not any(_preloaded):
        raise ConfigError(
            "EnvPool's pixels need rlopt to load envpool: call rlopt.make_env before importing it, "
            "or use backend='gymnasium'"
        )


def _loads(library: str, mode: int = ctypes.DEFAULT_MODE) -> bool:
    try:
        ctypes.CDLL(library, mode)
    except OSError:
        return False
    return True


def _egl_has_driver() -> bool:
    """Whether EGL offers a display: libEGL alone, without Mesa or a GPU driver, offers none."""
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    count = ctypes.c_int(0)
    return bool(query(0, None, ctypes.byref(count))) and count.value > 0


def route_warnings() -> None:
    """Sends MuJoCo's warnings to the logger ``rlopt.mujoco``; notes on deprecated model syntax only at level debug.

    Call after dm_control is imported, which sends them elsewhere. EnvPool's own MuJoCo cannot be reached this way: it
    warns of NaN actions alone, and those are refused before they get there.
    """
    import mujoco

    mujoco.set_mju_user_warning(_log_warning)


def _log_warning(message: str) -> None:
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    _MUJOCO_LOGGER.log(level, message.strip())
