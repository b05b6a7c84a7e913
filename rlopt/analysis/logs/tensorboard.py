"""TensorBoard's event files, with the tags of Stable-Baselines3, CleanRL, or anybody. No torch."""

import ast
import re
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlopt.analysis.curves import EVALUATION, TRAINING
from rlopt.analysis.logs.log import Log, Series, moving_mean, plain_settings, split_name
from rlopt.errors import RunError, one_line, resource_error
from rlopt.storage.budget import open_plain

MARK = "events.out.tfevents"
MAX_BYTES = 2**30
MAX_POINTS = 2**24
_CLEANRL = "charts/episodic_return"
_ROW = re.compile(r"\|([^|]+)\|([^|]*)\|")
_RUN_NAME = re.compile(r"(?P<env>.+?)__(?P<agent>.+?)__(?P<seed>\d+)__\d+")
"""How CleanRL names its runs."""


def event_files(folder: Path) -> list[Path]:
    """The event files of a folder, oldest first."""
    return sorted(path for path in folder.iterdir() if MARK in path.name)


def read_tensorboard(path: Path) -> Log:
    """Reads a folder of event files, or one file.

    :raises RunError: it cannot be read, is over 1 GiB, or holds no scalars
    """
    series, texts = _scalars(path)
    settings = {name.strip(): _value(value) for name, value in _ROW.findall(texts.get("hyperparameters", ""))[2:]}
    named = name_of_cleanrl(path.name)
    if _CLEANRL in series:
        steps, values, seconds = series[_CLEANRL]
        series[TRAINING] = Series(steps, moving_mean(values), seconds)
        settings = plain_settings(settings)
        env = settings.get("env_id", named.get("env"))
        agent = settings.get("exp_name", named.get("agent", split_name(path)[0]))
        known = {"seed": named["seed"]} if "seed" in named else {}
        return Log(path, str(agent), "CleanRL", series, None if env is None else str(env), known | settings)
    if "eval/mean_reward" in series:
        series[EVALUATION] = series["eval/mean_reward"]
    library = "SB3" if TRAINING in series else "TensorBoard"
    return Log(path, split_name(path)[0], library, series)


def name_of_cleanrl(name: str) -> dict[str, Any]:
    """Environment, agent and seed in a name such as ``Hopper-v4__ppo__1__1700000000``; empty for another name."""
    found = _RUN_NAME.fullmatch(name)
    return {} if found is None else {**found.groupdict(), "seed": int(found["seed"])}


def _scalars(path: Path) -> tuple[dict[str, Series], dict[str, str]]:
    """Scalars by tag, and texts by tag."""
    numbers: dict[str, tuple[array[float], array[float], array[float]]] = defaultdict(
        lambda: (array("d"), array("d"), array("d"))
    )
    texts: dict[str, str] = {}
    first, count = None, 0
    for file in [path] if path.is_file() else event_files(path):
        for event in _events(file):
            first = event.wall_time if first is None else first
            for value in event.summary.value:
                number = _number(value)
                if number is None:
                    if value.tensor.string_val:
                        texts.setdefault(value.tag.removesuffix("/text_summary"), _text(value))
                    continue
                count += 1
                if count > MAX_POINTS:
                    raise RunError(f"{path} holds over {MAX_POINTS:,} numbers: give fewer event files")
                steps, values, seconds = numbers[value.tag]
                steps.append(event.step)
                values.append(number)
                seconds.append(event.wall_time - first)
    if not numbers:
        raise RunError(f"{path} holds no scalars of TensorBoard: train for longer")
    return {tag: Series(*(np.frombuffer(part) for part in parts)) for tag, parts in sorted(numbers.items())}, texts


def _events(file: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    try:
        with open_plain(file, follow=True) as opened:
            if opened.seek(0, 2) > MAX_BYTES:
                raise ValueError(f"it is over {MAX_BYTES} bytes")
        yield from LegacyEventFileLoader(str(file)).Load()
    except RunError:
        raise
    except Exception as error:  # TensorBoard's readers raise errors of protobuf and their own
        what = f"{file} cannot be read"
        raise resource_error(error, what) or RunError(f"{what}: {one_line(error)}") from None


def _number(value: Any) -> float | None:
    """The scalar of a summary; the shape that a tensor claims is not believed."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    tensor = value.tensor
    if tensor.float_val or tensor.double_val:
        return float((tensor.float_val or tensor.double_val)[0])
    formats = {1: "<f", 2: "<d"}  # DT_FLOAT, DT_DOUBLE
    if tensor.dtype in formats and len(tensor.tensor_content) == struct.calcsize(formats[tensor.dtype]):
        return float(struct.unpack(formats[tensor.dtype], tensor.tensor_content)[0])
    return None


def _text(value: Any) -> str:
    return str(value.tensor.string_val[0][: 2**16].decode("utf-8", "replace"))


def _value(text: str) -> Any:
    """A setting as Python writes it, else its text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.strip()
