"""Whether the values that a function reads besides its arguments have changed since it was compiled."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlopt.errors import one_line


class Reads:
    """Watches a function for values (of attributes, globals, closures) that are constants in its compiled code.

    torch notes what a function read while it was traced, and traces it again when that has changed. A compiled
    gradient step goes without those checks, which would cost a part of every step: this one is asked once an update
    instead, also where a CUDA graph is replayed.

    :param function: of tensors
    :param arguments: arguments of the shapes that it will get
    :param settings: its keyword arguments
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Tensor], settings: Mapping[str, Any]) -> None:
        def call(*inputs: Tensor, **values: Any) -> Any:
            return function(*inputs, **values)

        # torch counts how often a code object was traced: this copy has a count of its own.
        own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
        self._traces = self._used = 0
        self._arguments, self._settings = list(arguments), dict(settings)
        self._traced = torch.compile(own, backend=self._as_it_is, fullgraph=True, dynamic=False)
        self.problem: str | None = None
        """Why the function cannot be traced."""
        self.changed()

    def changed(self) -> bool:
        """Whether the function reads something else than when this watch began."""
        try:
            with torch.no_grad():
                self._traced(*self._arguments, **self._settings)
        except Exception as error:
            self.problem = f"it cannot be traced ({one_line(error)})"
        return self._used != 1

    def _as_it_is(self, graph: torch.fx.GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        self._traces += 1
        number = self._traces

        def run(*inputs: Any) -> Any:
            self._used = number
            return graph.forward(*inputs)

        return run
