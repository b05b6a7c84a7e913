"""Small training runs, and how two of them are compared."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlopt.agents.mdpo.config import MDPOConfig
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.loggers.writers import TIME_COLUMNS
from rlopt.runs.boundary import RunHook
from rlopt.settings.run import RunConfig

AGENT = MDPOConfig(n_steps=16, net_arch=(8,), value_batch_size=16, n_epochs=2, n_value_epochs=1)


def settings(folder: Path, **changes: Any) -> RunConfig:
    """Two environments, so a boundary every 32 steps; ten of them."""
    base: dict[str, Any] = {
        "env": "rlopt/RandomTarget-v0",
        "n_envs": 2,
        "total_timesteps": 320,
        "checkpoint_every": 64,
        "eval_every": 128,
        "eval_episodes": 2,
        "log_every": 32,
        "device": "cpu",
        "run_dir": str(folder),
        "normalize_observations": True,
    }
    return RunConfig(**{**base, **changes})


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder / "checkpoints")]


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in csv.DictReader(file)]


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a tree by its path, as bytes where it is an array; clock times are left out."""
    if isinstance(tree, dict):
        items = [(key, value) for key, value in tree.items() if key not in ("t", "t_start")]
    elif isinstance(tree, list | tuple):
        items = [
            (index, value)
            for index, value in enumerate(tree)
            if not (isinstance(value, list) and value and value[0] in TIME_COLUMNS)
        ]
    elif isinstance(tree, torch.Tensor):
        return {path: (tuple(tree.shape), tree.numpy().tobytes())}
    elif isinstance(tree, np.ndarray | np.generic):
        return {path: (tree.shape, tree.tobytes())}
    else:
        return {path: tree}
    return {name: leaf for key, value in items for name, leaf in leaves(value, f"{path}/{key}").items()}


def assert_same_result(first: Path, second: Path) -> None:
    last = [read_checkpoint(list_checkpoints(folder / "checkpoints")[-1]) for folder in (first, second)]
    assert last[0].step == last[1].step
    assert leaves(dict(last[0].trees)) == leaves(dict(last[1].trees))
    for name in ("progress.csv", "episodes.csv", "evaluations.csv"):
        assert read_csv(first / name) == read_csv(second / name), name
    assert (first / "best.json").read_bytes() == (second / "best.json").read_bytes()


def send_signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """Sends a signal to this process at the first boundary at a step, before the hook looks for one."""
    original, sent = RunHook.__call__, []

    def call(self: RunHook, model: Any) -> bool:
        if model.num_timesteps == step and not sent:
            sent.append(number)
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(self, model)

    monkeypatch.setattr(RunHook, "__call__", call)
