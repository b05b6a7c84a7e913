"""Connections that cannot starve the server: those that send no whole request in time, or lie idle, make room."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Within which the head of a request must have come."""
MOST_QUIET = 400
"""Connections that may be open without a request at work; of more, those that have been quiet for longest close."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a limit on the time and the number of connections that ask for nothing.

    uvicorn counts every connection against its limit, also one whose request never ends.
    """

    quiet: ClassVar[OrderedDict[PatientProtocol, None]] = OrderedDict()
    """The connections of this process without a request at work, those first that have been so for longest."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A browser connects."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or more than one."""
        if not self._is_at_work() and self._timer is None:
            self._wait()
        super().data_received(data)
        if self._is_at_work():
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The answer is out: the connection is kept for the next request."""
        super().on_response_complete()
        if not self._is_at_work() and not self.transport.is_closing():
            self.quiet[self] = None
            self._make_room()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """For the head of a request."""
        self.quiet[self] = None
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)
        self._make_room()

    def _make_room(self) -> None:
        while len(self.quiet) > MOST_QUIET:
            oldest = next(iter(self.quiet))
            oldest._forget()
            oldest._give_up()

    def _forget(self) -> None:
        self.quiet.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.quiet.pop(self, None)
        if not self.transport.is_closing():
            self.transport.abort()
