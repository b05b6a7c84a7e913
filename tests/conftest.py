"""What holds for all tests: a gradient step that is compiled is traced whole, but its kernels are seldom built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlopt.optim import compiled_step


@pytest.fixture(autouse=True)
def _traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what torch.compile has traced as it is, in seconds instead of a minute, unless marked ``kernels``."""
    if request.node.get_closest_marker("kernels") is None:
        monkeypatch.setattr(compiled_step, "_compiled", _as_traced)


def _as_traced(function: Callable[..., Any], cpp_wrapper: bool) -> Callable[..., Any]:
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager", options=options)
