"""Who may look: a token in the link admits a browser, a cookie keeps it in. No secret is logged, or in the database."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from rlopt.feedback.store import Rater, Study, StudyStore, digest, is_opaque

MIN_TOKEN = 20
"""Characters of a token that somebody chooses; a drawn one has 256 bits."""
_REMEMBERED = 4096


class Access:
    """The sessions of one server.

    :param token: what the link must carry; None admits everybody who reaches the server
    :param admits: how many browsers the link admits; one that is in already does not count again
    :param names: names of those who are admitted, each once, in place of a number
    :param owner_token: what the link of the one who runs the study carries, who alone sees the results then
    :param since: when the link was made (seconds since 1970): raters who came later have spent it already
    """

    def __init__(
        self,
        store: StudyStore,
        study: Study,
        token: str | None,
        admits: int = 1,
        names: Sequence[str] = (),
        owner_token: str | None = None,
        since: float | None = None,
    ) -> None:
        self._store, self._study, self._token, self._owner_token = store, study, token, owner_token
        here = [] if since is None else store.raters(study, since)
        taken = {rater.name for rater in store.raters(study)} if names else set()
        self.names, self._names_left = tuple(names), [name for name in names if name not in taken]
        self._left = admits - len(here)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Rater] = OrderedDict()
        # Cookies are shared by all ports of a host, so that two studies need two names.
        self.cookie = f"rlopt_rank_{digest(f'{study.id} {study.name}')[:12]}"
        # One person may rank and run the study, in one browser.
        self.owner_cookie = f"{self.cookie}_owner"

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self._token is None

    def knows(self, token: str | None) -> bool:
        """Whether the link carries the token, or needs none; compared in constant time."""
        if self._token is None:
            return True
        return token is not None and _same(token, self._token)

    def invites(self, token: str | None) -> bool:
        """Whether the link is that of raters."""
        return self._token is not None and self.knows(token)

    def is_owners(self, token: str | None) -> bool:
        """Whether the link is that of the one who runs the study."""
        return token is not None and self._owner_token is not None and _same(token, self._owner_token)

    def owner_session(self) -> str:
        """The cookie of the one who runs the study."""
        assert self._owner_token is not None
        return "owner." + _signed(self._owner_token, "owner")

    def is_owner(self, session: str | None) -> bool:
        """Whether the session is that of the one who runs the study."""
        return session is not None and self._owner_token is not None and _same(session, self.owner_session())

    @property
    def raters_see_results(self) -> bool:
        """Whether nobody is the owner, so that all are."""
        return self._owner_token is None

    def return_code(self, rater: Rater) -> str | None:
        """What lets a rater continue in another browser, as a link's ``rater``; None where the server has no token."""
        if self._token is None:
            return None
        return f"{rater.public_id}.{_signed(self._token, f'rater {rater.public_id}')}"

    def signed(self, code: str | None) -> bool:
        """Whether a code is one of :meth:`return_code`; asks no database."""
        public_id = (code or "").partition(".")[0]
        wanted = self.return_code(Rater(0, public_id, None)) if is_opaque(public_id) else None
        return wanted is not None and _same(str(code), wanted)

    def returning(self, code: str | None) -> Rater | None:
        """Who comes back with a code of :meth:`return_code`."""
        if code is None or not self.signed(code):
            return None
        return self._store.rater_called(self._study, code.partition(".")[0])

    def names_left(self) -> tuple[str, ...]:
        """Names that nobody has taken yet."""
        with self._lock:
            return tuple(self._names_left)

    def admit(
        self, token: str | None, session: str | None, name: str | None = None, *, agreed: bool = False
    ) -> str | None:
        """The session's secret for the cookie, or None where the browser is not let in.

        :param token: of the link
        :param session: of the cookie, if the browser has one
        :param name: which of :attr:`names` it is, where there are any
        :param agreed: whether the rater has agreed to the text of consent, which the audit trail then says
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
        self._remember(session, self._store.add_rater(self._study, session, name if self.names else None, agreed))
        return session

    def rater(self, session: str | None) -> Rater | None:
        """Who holds the session, None for a secret that nobody was given."""
        if not session or len(session) > 100:
            return None
        known = self.known(session)
        if known is None:
            known = self._store.rater(self._study, session) or self.returning(session)
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


def _same(one: str, other: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))


def _signed(key: str, text: str) -> str:
    return hmac.new(key.encode(), f"rlopt rank {text}".encode(), hashlib.sha256).hexdigest()


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
