"""Policies written for other programs: Stable-Baselines3's zip, TorchScript, ONNX; each compared with ``predict``."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from rlopt.errors import ExportError, one_line, unknown_name
from rlopt.export.module import ActingModule, normalizer_of
from rlopt.export.read import ExportedPolicy, fitting, load_policy
from rlopt.storage.replacing import replacing
from rlopt.storage.spaces import encode_space

Format = Literal["sb3", "torchscript", "onnx"]
SUFFIXES: dict[str, str] = {"sb3": ".zip", "torchscript": ".pt", "onnx": ".onnx"}
ROWS = 256
"""Random observations that an exported policy is compared on."""
RELATIVE, ABSOLUTE = 1e-4, 1e-4
"""How far a continuous action may be from ``predict``'s: of its size, and of the action range."""


def export(model: Any, path: str | Path, to: Format, raw_frames: bool = False) -> float:
    """Writes the deterministic policy of ``model`` to ``path`` and compares what was written with ``predict``.

    TorchScript and ONNX files take raw observations (B, ...), one input a part of a Dict space, named after it, and
    give actions as the environment takes them: normalised and scaled as in the run. The zip is Stable-Baselines3's own,
    which unpickles when it is read: for people who trust you. If the run normalised observations, a VecNormalize's
    pickle is written next to it.

    :param model: a deep agent, as :func:`rlopt.load` gives it
    :param path: replaced if it exists
    :param to: "sb3", "torchscript" or "onnx", which needs the extra onnx
    :param raw_frames: whether the file takes images (B, H, W, C), as cameras give them; otherwise (B, C, H, W)
    :returns: the largest difference between its actions and those of ``predict`` on random observations
    :raises rlopt.errors.ExportError: the model has no such policy, a package is missing, or the two differ
    """
    if to not in get_args(Format):
        raise unknown_name("format", str(to), get_args(Format))
    if not isinstance(model, BaseAlgorithm):
        raise ExportError(f"{type(model).__name__} is tabular: it has no network to export; load it with rlopt.load")
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"{path} is a folder: give the name of a file, such as {path / ('policy' + SUFFIXES[to])}")
    meant = next((each for each, suffix in SUFFIXES.items() if suffix == path.suffix.lower()), to)
    if meant != to:
        raise ExportError(
            f"{path.name} is the name of a {meant} file, and {to} is asked for: name it "
            f"{path.with_suffix(SUFFIXES[to]).name}, or ask for {meant}"
        )
    if to == "sb3":
        if raw_frames:
            raise ExportError("a zip takes frames as Stable-Baselines3 does: leave raw frames out")
        return _export_zip(model, path)
    module = ActingModule(model, raw_frames)
    device = model.device
    try:
        module.to("cpu")
        observations = random_observations(model.observation_space, ROWS)
        expected = _predicted(model, observations)
        write = _write_torchscript if to == "torchscript" else _write_onnx
        with replacing(path, ExportError, "choose another place") as temporary, torch.no_grad():
            write(module, _inputs(module, observations), temporary)
            return _compare(load_policy(temporary, to), observations, expected, f"the {to} file")
    finally:
        model.policy.to(device)


def random_observations(space: spaces.Space[Any], count: int, seed: int = 0) -> Any:
    """``count`` samples of the space as one array (count, ...), or a dict of such."""
    space = copy.deepcopy(space)
    space.seed(seed)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {name: np.stack([sample[name] for sample in samples]) for name in space.spaces}
    return np.stack([np.asarray(sample) for sample in samples])


def _predicted(model: Any, observations: Any) -> np.ndarray:
    """``predict`` on raw observations, whether the model normalises them itself or its environment does."""
    normalizer = normalizer_of(model)
    if normalizer is not None and getattr(model, "observation_statistics", None) is None:
        observations = normalizer.normalize_obs(observations)
    actions: np.ndarray = model.predict(observations, deterministic=True)[0]
    return actions


def _inputs(module: ActingModule, observations: Any) -> tuple[torch.Tensor, ...]:
    parts = observations if isinstance(observations, dict) else {"observation": observations}
    space = module.input_space
    wanted = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    return tuple(torch.as_tensor(fitting(name, wanted[name], parts[name][:2])) for name in module.names)


def _description(module: ActingModule) -> str:
    return json.dumps(
        {
            "format": "rlopt-policy",
            "version": 1,
            "observation_space": encode_space(module.input_space),
            "action_space": encode_space(module.action_space),
        }
    )


def _write_torchscript(module: ActingModule, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    with _quiet():
        traced = torch.jit.trace(module, inputs, check_trace=False)
        # To a stream, because torch refuses paths whose names begin with a dot and have no other.
        with open(path, "wb") as file:
            torch.jit.save(traced, file, _extra_files={"rlopt.json": _description(module)})


def _write_onnx(module: ActingModule, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401, torch's exporter needs it
    except ImportError as error:
        raise ExportError(f"exporting to ONNX needs the package {error.name}: pip install 'rlopt[onnx]'") from None
    rows = torch.export.Dim("batch", min=1)
    shapes = (tuple({0: rows} for _ in inputs),)
    try:
        with _quiet():
            program = torch.onnx.export(
                module, inputs, dynamo=True, input_names=module.names, output_names=["action"], dynamic_shapes=shapes,
                verbose=False,
            )  # fmt: skip
    except Exception as error:
        raise ExportError(
            f"the policy cannot be written as ONNX ({type(error).__name__}: {one_line(error)}): use --to torchscript"
        ) from error
    assert program is not None
    written = program.model_proto
    written.metadata_props.add(key="rlopt", value=_description(module))
    onnx.save(written, str(path))


def _export_zip(model: Any, path: Path) -> float:
    observations = random_observations(model.observation_space, ROWS)
    expected = _predicted(model, observations)
    with replacing(path, ExportError, "choose another place") as temporary:
        with open(temporary, "wb") as file:
            model.save(file)
        again = type(model).load(temporary, device="cpu")
        normalizer = normalizer_of(model)
        seen = observations if normalizer is None else normalizer.normalize_obs(observations)
        actions = again.predict(seen, deterministic=True)[0]
        difference = _difference(actions, expected, model.action_space, "the zip")
    if normalizer is not None:
        with replacing(normalization_path(path), ExportError, "choose another place") as temporary:
            normalizer.save(str(temporary))
    return difference


def normalization_path(path: Path) -> Path:
    """Where the VecNormalize that belongs to a zip lies."""
    return path.with_name(f"{path.stem}-vecnormalize.pkl")


def _compare(policy: ExportedPolicy, observations: Any, expected: np.ndarray, what: str) -> float:
    actions = policy.predict(observations)[0]
    single = {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
    _difference(policy.predict(single)[0][None], expected[:1], policy.action_space, f"{what}, of one observation,")
    return _difference(actions, expected, policy.action_space, what)


def _difference(actions: np.ndarray, expected: np.ndarray, space: spaces.Space[Any], what: str) -> float:
    """The largest one; raises ExportError where it is more than rounding."""
    if actions.shape != expected.shape:
        raise ExportError(f"{what} gives actions of shape {actions.shape}, predict {expected.shape}: nothing was kept")
    gaps = np.abs(actions.astype(np.float64) - expected.astype(np.float64))
    allowed = np.zeros_like(gaps)
    if isinstance(space, spaces.Box):
        reach = np.where(np.isfinite(space.high - space.low), space.high - space.low, 1.0)
        allowed = RELATIVE * np.abs(expected) + ABSOLUTE * np.maximum(reach, 1.0)
    if not (gaps <= allowed).all():
        raise ExportError(
            f"{what} differs from predict by {gaps.max():.3g} on random observations, more than rounding: nothing was "
            "kept; the policy does something that the export does not cover"
        )
    return float(gaps.max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress and the hints of torch's exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
