"""What others have pickled, read without calling what the pickle names: statistics of VecNormalize, and numbers."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.errors import CheckpointError, one_line, resource_error

_LARGEST_FILE = 2**28
_ARRAY = ("_reconstruct", "_frombuffer", "scalar")


class _Inert:
    """Stands for any object of a pickle: it keeps its state and does nothing."""

    state: Any = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass


class _DType(_Inert):
    def read(self, raw: Any, shape: Any, order: Any) -> np.ndarray:
        """An array of this type from bytes; ``order`` says in which its axes lie there, "C" or "F"."""
        bytes_as: Any = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        dtype = np.dtype(str(self.arguments[0])).newbyteorder("=" if bytes_as == "|" else bytes_as)
        if dtype.kind not in "biuf" or not isinstance(raw, bytes | bytearray):
            raise ValueError(f"an array of {dtype}")
        found = np.frombuffer(bytes(raw), dtype)
        return found[: math.prod(shape)].reshape(shape, order=order).astype(dtype.newbyteorder("="))


class _Array(_Inert):
    def value(self) -> np.ndarray:
        """The array that the pickle describes."""
        order = "C"
        if isinstance(self.state, tuple):  # as __setstate__ of an array has it
            _, shape, dtype, by_columns, raw = self.state
            order = "F" if by_columns else "C"
        elif len(self.arguments) == 2:  # a scalar
            (dtype, raw), shape = self.arguments, ()
        else:
            raw, dtype, shape, order, *_ = self.arguments
        found: np.ndarray = dtype.read(raw, shape, order)
        return found


class _Reader(pickle.Unpickler):
    """Gives a stand-in for everything that the pickle names: no module is imported, no function of it called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy":
            return _DType if name == "dtype" else _Array if name in _ARRAY else _Inert
        return type(name, (_Inert,), {}) if name.isidentifier() else _Inert


class ObservationStatistics:
    """What a VecNormalize does to observations: less the mean, over the deviation, clipped."""

    def __init__(self, statistics: Any, epsilon: float, clip: float) -> None:
        self._statistics, self._epsilon, self._clip = statistics, epsilon, clip

    def normalize_obs(self, observations: Any) -> Any:
        """As ``VecNormalize.normalize_obs``: (N, ...) or a dict of those, float32."""
        if isinstance(self._statistics, dict):
            return {
                key: self._normalized(part, self._statistics[key]) if key in self._statistics else part
                for key, part in observations.items()
            }
        return self._normalized(observations, self._statistics)

    def _normalized(self, observations: np.ndarray, statistics: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        mean, variance = statistics
        scaled = (observations - mean) / np.sqrt(variance + self._epsilon)
        clipped: np.ndarray = np.clip(scaled, -self._clip, self._clip).astype(np.float32)
        return clipped


def read_vec_normalize(path: Path, observation_space: Any) -> ObservationStatistics | None:
    """The statistics in ``path``; None of a VecNormalize that normalised rewards alone.

    :raises rlopt.errors.CheckpointError: no such file, or one that ``VecNormalize.save`` has not written, or of other
        observations
    """
    cure = "give the file that VecNormalize.save wrote beside the model"
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        with path.open("rb") as file:
            read = _Reader(file).load()
        state = read.state
        if type(read).__name__ != "VecNormalize":
            raise ValueError(f"it holds a {type(read).__name__}")
        if not state["norm_obs"]:
            return None
        rms = state["obs_rms"]
        found = {key: _moments(part) for key, part in rms.items()} if isinstance(rms, dict) else _moments(rms)
        statistics = ObservationStatistics(found, float(_number(state["epsilon"])), float(_number(state["clip_obs"])))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: {cure}") from None
    except Exception as error:  # a damaged or foreign pickle fails in many ways, none of which runs its code
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{path} holds no statistics of VecNormalize ({reason}): {cure}") from None
    parts = observation_space.spaces if isinstance(found, dict) else {"": observation_space}
    shapes = {key: part.shape for key, part in parts.items()}
    for key, (mean, _) in (found if isinstance(found, dict) else {"": found}).items():
        if mean.shape != shapes.get(key):
            raise CheckpointError(
                f"{path} holds statistics of observations {mean.shape}, the environment has {shapes.get(key)}: {cure}"
            )
    return statistics


def pickled_numbers(path: Path) -> np.ndarray:
    """(N,) float64: the one array, or list of numbers, that a pickle holds.

    :raises rlopt.errors.CheckpointError: no such file, or one that holds something else
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        with path.open("rb") as file:
            read = _Reader(file).load()
        values = read.value() if isinstance(read, _Array) else [_number(value) for value in read]
        numbers = np.asarray(values, np.float64).reshape(-1)
        if not np.isfinite(numbers).all():
            raise ValueError("a number that is not finite")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        raise CheckpointError(f"{path} holds no numbers ({type(error).__name__}: {one_line(error)})") from None
    return numbers


def _moments(rms: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = (rms.state[name].value() for name in ("mean", "var"))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        raise ValueError("a mean or variance that is none")
    return mean, variance


def _number(value: Any) -> Any:
    return value.value() if isinstance(value, _Array) else value
