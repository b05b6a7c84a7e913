"""Exported policies, read back: something that acts, as :func:`rlopt.evaluate` and Stable-Baselines3 take it."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.errors import ExportError, SpaceError, one_line
from rlopt.storage.spaces import decode_space

Run = Callable[[list[np.ndarray]], np.ndarray]


class ExportedPolicy:
    """A policy from a TorchScript or ONNX file; always deterministic.

    :param run: actions (B, ...) of a list of observations (B, ...), one for each part of a Dict space
    """

    def __init__(self, run: Run, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self._run = run
        self.observation_space = observation_space
        self.action_space = action_space

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them, and ``state`` unchanged.

        Images may have their channels last, as environments give them, or first, whichever the file has.
        ``episode_start`` and ``deterministic`` have no effect, because the policy samples nothing.

        :raises rlopt.errors.SpaceError: observations of another shape, or of other parts
        """
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            if not isinstance(observation, Mapping) or not space.spaces.keys() <= observation.keys():
                raise SpaceError(f"the policy observes a dictionary of {', '.join(space.spaces)}: give all of them")
            parts = [(name, part, observation[name]) for name, part in space.spaces.items()]
        else:
            parts = [("the observation", space, observation)]
        arrays = [fitting(name, part, value) for name, part, value in parts]
        single = all(array.ndim == len(part.shape or ()) for array, (_, part, _) in zip(arrays, parts, strict=True))
        actions = self._run([array[None] for array in arrays] if single else arrays)
        return (actions[0] if single else actions), state


def fitting(name: str, space: spaces.Space[Any], value: Any) -> np.ndarray:
    """A value, or a batch of them, in the type of the space and, of an image, with the channels where it has them."""
    shape = space.shape or ()
    array = np.asarray(value, dtype=space.dtype)
    candidates = [array]
    if len(shape) == 3 and array.ndim in (3, 4):
        candidates += [np.moveaxis(array, -1, -3), np.moveaxis(array, -3, -1)]
    for candidate in candidates:
        if candidate.shape == shape or candidate.shape[1:] == shape:
            return np.asarray(candidate, order="C")  # ascontiguousarray would give a single number an axis
    raise SpaceError(f"{name} has shape {array.shape}, and the policy takes {shape}, or a batch of that")


def load_policy(path: str | Path, kind: str | None = None) -> ExportedPolicy:
    """Reads a file that ``rlopt export`` wrote.

    An ONNX file is data. A TorchScript file holds code, though not Python: load it only from people you trust.

    :param kind: "onnx" or "torchscript"; None looks at the file
    :raises rlopt.errors.ExportError: there is no such file, rlopt did not write it, or onnxruntime is missing
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path} is not a file: give one that rlopt export wrote")
    if kind is None:
        kind = "torchscript" if path.suffix == ".pt" or zipfile.is_zipfile(path) else "onnx"
    read = _read_onnx if kind == "onnx" else _read_torchscript
    try:
        run, description = read(path)
        content = json.loads(description)
        if content["format"] != "rlopt-policy" or content["version"] != 1:
            raise ValueError("its description is of another version")
        observation_space, action_space = (decode_space(content[f"{name}_space"]) for name in ("observation", "action"))
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{path} is not a policy that rlopt export wrote ({type(error).__name__}: {one_line(error)}): write it anew"
        ) from error
    return ExportedPolicy(run, observation_space, action_space)


def _read_onnx(path: Path) -> tuple[Run, str]:
    try:
        import onnxruntime
    except ImportError:
        raise ExportError("running ONNX files needs onnxruntime: pip install 'rlopt[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(parts: list[np.ndarray]) -> np.ndarray:
        actions: np.ndarray = session.run(None, dict(zip(names, parts, strict=True)))[0]
        return actions

    return run, session.get_modelmeta().custom_metadata_map["rlopt"]


def _read_torchscript(path: Path) -> tuple[Run, str]:
    import warnings

    import torch

    extra: dict[str, Any] = {"rlopt.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)

    def run(parts: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            actions: np.ndarray = module(*(torch.as_tensor(part) for part in parts)).numpy()
            return actions

    return run, extra["rlopt.json"]
