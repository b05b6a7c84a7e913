"""What peers of LOOP share whose policy changes between episodes alone."""

from __future__ import annotations

from rlopt.agents.loop.base import ContinuingAgent
from rlopt.agents.loop.contract import Switch


class Episodic(ContinuingAgent):
    """For agents whose policy changes between episodes alone: ``data.add`` says when one is over."""

    def _plan(self) -> None:
        """Puts the policy of the next episode in force."""
        raise NotImplementedError

    def _start(self) -> None:
        if not self.plans:
            self._switch()

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        if self.data.add(state, action, reward, arrived):
            self._switch()

    def _switch(self) -> None:
        self._plan()
        self.plans.append(Switch(self.n_transitions, self.data.gain))
