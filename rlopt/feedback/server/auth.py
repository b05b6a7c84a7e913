"""Who may look: a token in the link admits a browser, a cookie keeps it in. Nothing secret is stored or logged."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from rlopt.feedback.store import Rater, Study, StudyStore, digest

MIN_TOKEN = 20
"""Characters of a token that somebody chooses; a drawn one has 256 bits."""
_REMEMBERED = 4096


class Access:
    """The sessions of one server.

    :param token: what the link must carry; None admits everybody who reaches the server
    :param admits: how many browsers the link admits; one that is in already does not count again
    :param names: of those who are admitted, each once, in place of a number
    """

    def __init__(
        self, store: StudyStore, study: Study, token: str | None, admits: int = 1, names: Sequence[str] = ()
    ) -> None:
        self._store, self._study, self._token = store, study, token
        self.names, self._names_left = tuple(names), list(names)
        self._left = admits
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Rater] = OrderedDict()
        # Cookies are shared by all ports of a host, so that two studies need two names.
        self.cookie = f"rlopt_rank_{digest(f'{study.id} {study.name}')[:12]}"

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self._token is None

    def knows(self, token: str | None) -> bool:
        """Whether the link carries the token, or needs none; compared in constant time."""
        if self._token is None:
            return True
        return token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def names_left(self) -> tuple[str, ...]:
        """Names that nobody has taken yet."""
        with self._lock:
            return tuple(self._names_left)

    def admit(self, token: str | None, session: str | None, name: str | None = None) -> str | None:
        """The session's secret for the cookie, or None where the browser is not let in.

        :param token: of the link
        :param session: of the cookie, if the browser has one
        :param name: which of :attr:`names` it is, where there are any
        """
        if not self.knows(token):
            return None
        if session is not None and self.rater(session) is not None:
            return session
        with self._lock:
            if self.names:
                if name not in self._names_left:
                    return None
                self._names_left.remove(name)
            elif self._token is not None:
                if self._left < 1:
                    return None
                self._left -= 1
        session = secrets.token_urlsafe(32)
        self._remember(session, self._store.add_rater(self._study, session, name if self.names else None))
        return session

    def rater(self, session: str | None) -> Rater | None:
        """Who holds the session, None for a secret that nobody was given."""
        if not session or len(session) > 100:
            return None
        known = self.known(session)
        if known is None:
            known = self._store.rater(self._study, session)
            if known is not None:
                self._remember(session, known)
        return known

    def known(self, session: str | None) -> Rater | None:
        """As :meth:`rater`, of those only that came lately, without asking the database."""
        return self._known.get(digest(session)) if session else None

    def _remember(self, session: str, rater: Rater) -> None:
        with self._lock:
            self._known[digest(session)] = rater
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def csrf_token(session: str) -> str:
    """What a page must send back with every POST: bound to the session, which scripts of other sites cannot read."""
    return hmac.new(session.encode(), b"rlopt rank csrf", hashlib.sha256).hexdigest()


def csrf_matches(session: str, sent: str | None) -> bool:
    """Compares in constant time."""
    return sent is not None and hmac.compare_digest(csrf_token(session).encode(), sent.encode())


class RateLimit:
    """A bucket of requests for every caller, filled at ``rate`` a second up to ``burst``."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, caller: str) -> bool:
        """Takes one request of the caller's bucket; False if it is empty."""
        now = self._clock()
        with self._lock:
            left, then = self._buckets.pop(caller, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._rate)
            self._buckets[caller] = (max(left - 1, 0.0) if left >= 1 else left, now)
            while len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        return left >= 1
