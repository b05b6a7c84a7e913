"""Which networks actor and critics have: names and the widths that their papers use. Imports no torch."""

from __future__ import annotations

from typing import Literal

NetworkName = Literal["mlp", "layer_norm", "simba", "crossq"]
PUBLISHED_WIDTHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mlp": ((256, 256), (256, 256)),
    "layer_norm": ((256, 256), (256, 256)),
    "simba": ((128,), (512, 512)),
    "crossq": ((256, 256), (2048, 2048)),
}
"""Widths of the layers of actor and critics where none are given; of SimBa's residual blocks."""
PUBLISHED_POLICY_DELAY: dict[str, int] = {"crossq": 3}
"""Gradient steps of the critics for one of the actor, where it is not 1."""
