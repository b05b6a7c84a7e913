"""Takes and puts back the exact state of MuJoCo environments, dm_control's and Gymnasium's, as arrays and numbers.

A snapshot holds the simulator's state, what a task has changed in the model, the plain attributes and the random
generators of the environment. Only environments whose state is known to be complete in these are snapshot
(``_SNAPSHOT_MODULES``).
No other module touches private fields of dm_control (``_step_count``, ``_reset_next_step``).
"""

import copy
import shlex
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from rlopt.envs.calls import call
from rlopt.envs.outcomes import name_of
from rlopt.errors import StateUnavailableError

_SNAPSHOT_MODULES = (
    "gymnasium.envs.mujoco.",
    "gymnasium_robotics.envs.maze.",
    "rlopt.envs.dmc",
    "rlopt.envs.tasks.point_maze",
)
_LEFTOVERS = ("xpos", "xipos", "cfrc_ext")
"""Results of the last step, which are not part of MuJoCo's state. Some rewards of Gymnasium read them before the next
step computes them anew."""


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[Any]:
    """The wrappers of an environment from the outside in, then the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def has_snapshot(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether the environment is of a family whose simulator state is known to be complete."""
    base = env.unwrapped
    return type(base).__module__.startswith(_SNAPSHOT_MODULES) and _simulator(base) is not None


def _simulator(base: Any) -> tuple[Any, Any] | None:
    """MuJoCo's model and data of an environment."""
    if hasattr(base, "dm_env"):
        physics = base.dm_env.physics
        return physics.model.ptr, physics.data.ptr
    for owner in _owners(base):
        if type(getattr(owner, "model", None)).__name__ == "MjModel":
            return owner.model, owner.data
    return None


def _owners(base: Any) -> list[Any]:
    """The objects whose plain attributes and random generators are part of the state."""
    if hasattr(base, "dm_env"):
        return [base, base.dm_env.task]
    inner = [getattr(base, name) for name in ("point_env", "ant_env") if hasattr(base, name)]
    return [base, *inner]


def fresh_model(env: gymnasium.Env[Any, Any]) -> Any:
    """A copy of the model before any reset has changed it. :func:`take` keeps only what differs from it."""
    found = _simulator(env.unwrapped)
    return None if found is None else copy.copy(found[0])


def take(env: gymnasium.Env[Any, Any], reference: Any) -> dict[str, Any]:
    """The state of ``env`` between two steps; ``reference`` is a :func:`fresh_model` of an equal environment.

    :raises rlopt.errors.StateUnavailableError: for an environment without a MuJoCo simulator
    """
    import mujoco

    base: Any = env.unwrapped
    found = _simulator(base)
    if found is None:
        raise StateUnavailableError("the environment has no MuJoCo simulator")
    model, data = found
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.zeros(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integration, kind)
    state: dict[str, Any] = {
        "mujoco": mujoco.__version__,
        "integration": integration,
        "leftovers": {name: np.array(getattr(data, name)) for name in _LEFTOVERS},
        "model": {
            name: np.array(array)
            for name, array in _model_arrays(model)
            if array.tobytes() != _field(reference, name).tobytes()
        },
        "attributes": [_plain_attributes(owner) for owner in _owners(base)],
        "random": [_random_state(owner) for owner in _owners(base)],
    }
    if hasattr(base, "dm_env"):
        state["dm_control"] = {"step_count": base.dm_env._step_count, "reset_next_step": base.dm_env._reset_next_step}
    return state


def put(env: gymnasium.Env[Any, Any], reference: Any, state: dict[str, Any]) -> None:
    """Brings ``env`` to a state that :func:`take` gave.

    :raises rlopt.errors.StateUnavailableError: for a state of another MuJoCo version or another model
    """
    import mujoco

    if state["mujoco"] != mujoco.__version__:
        raise StateUnavailableError(
            f"the state is of mujoco {state['mujoco']}, this is {mujoco.__version__}: "
            f"pip install {shlex.quote('mujoco==' + str(state['mujoco']))} to continue exactly"
        )
    base: Any = env.unwrapped
    # Some attributes exist only after a reset; everything that it sets is overwritten below.
    call(name_of(env), "reset", env.reset)
    found = _simulator(base)
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    if found is None or len(state["integration"]) != mujoco.mj_stateSize(found[0], kind):
        raise StateUnavailableError("the saved simulator state is of another model")
    model, data = found
    for name, array in _model_arrays(model):
        target = state["model"].get(name, _field(reference, name))
        if array.tobytes() != target.tobytes():
            array[...] = target
    for owner, attributes, random in zip(_owners(base), state["attributes"], state["random"], strict=True):
        # The generator first: Gymnasium makes it when first asked for, which overwrites the attribute with its seed.
        _set_random_state(owner, random)
        _set_attributes(owner, attributes)
    integration = np.ascontiguousarray(state["integration"])
    mujoco.mj_setState(model, data, integration, kind)
    mujoco.mj_forward(model, data)
    # mj_forward computes positions and forces from the state, but changes the solver's warm start: set that again.
    mujoco.mj_setState(model, data, integration, kind)
    for name, array in state["leftovers"].items():
        getattr(data, name)[...] = array
    if "dm_control" in state:
        base.dm_env._step_count = state["dm_control"]["step_count"]
        base.dm_env._reset_next_step = state["dm_control"]["reset_next_step"]


def _model_arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every numeric array of a model by name. Tasks such as reacher move their target by writing into the model."""
    for name in dir(model):
        if name.startswith("_"):
            continue
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "fiub":
            yield name, value
    for name in ("gravity", "wind", "magnetic"):
        yield f"opt.{name}", getattr(model.opt, name)


def _field(model: Any, name: str) -> np.ndarray:
    return getattr(model.opt, name[4:]) if name.startswith("opt.") else getattr(model, name)


def _plain_attributes(owner: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
            kept[name] = np.array(value)
        elif isinstance(value, (bool, int, float)):
            kept[name] = value
    return kept


def _set_attributes(owner: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        current = vars(owner).get(name)
        if isinstance(value, np.ndarray) and value.shape == ():
            setattr(owner, name, value[()])
        elif isinstance(current, np.ndarray) and isinstance(value, np.ndarray) and current.shape == value.shape:
            current[...] = value
        else:
            setattr(owner, name, np.array(value) if isinstance(value, np.ndarray) else value)


def _random_state(owner: Any) -> dict[str, Any]:
    if isinstance(owner, gymnasium.Env):
        return dict(owner.np_random.bit_generator.state)
    return dict(owner.random.get_state(legacy=False))


def _set_random_state(owner: Any, state: dict[str, Any]) -> None:
    if isinstance(owner, gymnasium.Env):
        owner.np_random.bit_generator.state = state
    else:
        owner.random.set_state(state)
