"""FOPO: the confidence set and plans of linear LOOP, replanned when the determinant of the Gram matrix has doubled."""

import math
from typing import Any, ClassVar

from rlopt.agents.loop.baselines.config import FOPOConfig
from rlopt.agents.loop.linear_loop import LinearLOOP
from rlopt.agents.loop.saving import number


class FOPO(LinearLOOP):
    """FOPO (Wei, Jafarnia-Jahromi, Luo and Jain, Learning infinite-horizon average-reward MDPs with linear function
    approximation, 2021, algorithm 1), with LOOP's planners in place of its optimisation, which has no efficient one.

    Arguments and errors as those of :class:`rlopt.agents.loop.linear_loop.LinearLOOP`; ``switch_multiplier`` is not
    used.

    :param settings: see :class:`rlopt.agents.loop.baselines.config.FOPOConfig`
    """

    config_class: ClassVar[type[Any]] = FOPOConfig

    _growth = 0.0
    """Logarithm of how much the determinant has grown since the last plan."""

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        # det(M + phi phi^T) = det(M) (1 + phi M^-1 phi).
        self._growth += math.log1p(self.data.square_width(state, action))
        super()._take_in(state, action, reward, arrived)

    def _due(self) -> bool:
        return self._growth >= math.log(self.config.determinant_factor)  # type: ignore[attr-defined]

    def _switch(self) -> None:
        super()._switch()
        self._growth = 0.0

    def _extra_state(self) -> dict[str, Any]:
        return {"growth": float(self._growth)}

    def _set_extra_state(self, state: dict[str, Any]) -> None:
        super()._set_extra_state(state)
        self._growth = number(state["growth"])
