"""Torch devices by name."""

from __future__ import annotations

import torch

from rlopt.errors import ConfigError


def check_device(device: str) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless ``device`` is "auto" or one that this torch can use."""
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}: write auto, cpu, cuda, cuda:1 or mps") from None
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(kind, False):
        raise ConfigError(
            f"device {device!r} is not usable with this torch {torch.__version__}: use --device cpu or auto"
        )
