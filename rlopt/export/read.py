"""Exported policies, read back: something that acts, as :func:`rlopt.evaluate` and Stable-Baselines3 take it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.errors import ExportError, one_line
from rlopt.storage.spaces import decode_space

Run = Callable[[list[np.ndarray]], np.ndarray]


class ExportedPolicy:
    """Acts by a TorchScript or ONNX file; always deterministic.

    :param run: actions (B, ...) of a list of observations (B, ...), one for each part of a Dict space
    """

    def __init__(self, run: Run, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self._run = run
        self.observation_space = observation_space
        self.action_space = action_space

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them, with ``state`` as it came.

        ``episode_start`` and ``deterministic`` are there because callers give them; the policy samples nothing.
        """
        space = self.observation_space
        names = list(space.spaces) if isinstance(space, spaces.Dict) else [""]
        parts = [(space[name], observation[name]) if isinstance(space, spaces.Dict) else (space, observation)
                 for name in names]  # fmt: skip
        arrays = [np.asarray(value, dtype=part.dtype) for part, value in parts]
        single = arrays[0].ndim == len(parts[0][0].shape or ())
        actions = self._run([array[None] for array in arrays] if single else arrays)
        return (actions[0] if single else actions), state


def load_policy(path: str | Path, kind: str | None = None) -> ExportedPolicy:
    """Reads a file that ``rlopt export`` wrote.

    An ONNX file is data. TorchScript holds code, though no Python: load it only from people you trust.

    :param kind: "onnx" or "torchscript"; None goes by the file's name, .onnx or anything else
    :raises rlopt.errors.ExportError: there is no such file, it is none of ours, or onnxruntime is missing
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path} is no file: give one that rlopt export wrote")
    read = _read_onnx if (kind or path.suffix.lstrip(".")) == "onnx" else _read_torchscript
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
            f"{path} is no policy that rlopt export wrote ({type(error).__name__}: {one_line(error)}): write it anew"
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
