"""Devices that cannot be used here, refused with the cure. Imports no torch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlopt.errors import ConfigError

if TYPE_CHECKING:
    import torch


def check_device(device: torch.device | str) -> None:
    """Raises :class:`rlopt.errors.ConfigError` unless ``device`` is "auto" or one that this torch can use."""
    import torch

    if device == "auto":
        return
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"unknown device {device!r}: write auto, cpu, cuda, cuda:1 or mps") from None
    usable = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not usable.get(found.type, False):
        raise ConfigError(
            f"device {str(device)!r} is not usable with this torch {torch.__version__}: use --device cpu or auto"
        )
