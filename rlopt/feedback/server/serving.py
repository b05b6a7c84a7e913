"""Runs the server of a study: binds, prints one URL, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import secrets
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rlopt.errors import ConfigError
from rlopt.feedback.protocol import StudyProtocol, web_address
from rlopt.feedback.rounds import LEASE_SECONDS
from rlopt.feedback.server.app import is_loopback, make_app, own_names
from rlopt.feedback.server.auth import MIN_TOKEN
from rlopt.feedback.server.guard import Limits
from rlopt.feedback.server.links import find_links, served_at
from rlopt.feedback.store import Study, StudyStore

HEAD_SECONDS = 10.0
"""Within which the head of a request must have come."""
HEAD_BYTES = 64 * 1024
"""Of an unfinished head; httptools sets no limit."""
MOST_QUIET = 400
"""Connections that may be open without a request at work; of more, those that have been quiet for longest close."""


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP/1.1 as uvicorn speaks it, with a limit on the time and the number of connections that ask for nothing.

    uvicorn counts every connection against its limit, also one whose request never ends.
    """

    quiet: ClassVar[OrderedDict[PatientProtocol, None]] = OrderedDict()
    """The connections of this process without a request at work, those first that have been so for longest."""
    _timer: asyncio.TimerHandle | None = None
    _waited_for = 0
    """Bytes that came before the head was whole."""

    def connection_made(self, transport: Any) -> None:
        """A browser connects."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or more than one."""
        if not self._is_at_work() and self._timer is None:
            self._wait()
        super().data_received(data)
        self._waited_for += len(data)
        if self._is_at_work():
            self._forget()
        elif self._waited_for > HEAD_BYTES:
            self._forget()
            self._give_up()

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
        self._waited_for = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.quiet.pop(self, None)
        if not self.transport.is_closing():
            self.transport.abort()


MINIMUM_SECONDS = 1.0
_GRACE_SECONDS = 3
_MAX_CONNECTIONS = 1000


@dataclass(frozen=True)
class ServeSettings:
    """Where and for whom a study is served."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes that of the last time, or a free one."""
    token: str | None = None
    """auto keeps that of the last time, or draws 256 bits; new draws them in any case; none lets everybody in; None
    means auto, but on this machine only."""
    raters: int | None = None
    """Browsers that the link admits; as many as can rank at once unless given."""
    names: tuple[str, ...] = ()
    """Names of the raters whom the link admits, in place of their number; each browser says which one it is."""
    public_url: str | None = None
    """Where a proxy in front serves it: scheme, host and port."""
    allow_hosts: tuple[str, ...] = ()
    """Further names that the server answers to."""
    requests_per_second: float = Limits.requests
    lease_seconds: float = LEASE_SECONDS
    minimum_seconds: float = MINIMUM_SECONDS
    """See :class:`rlopt.feedback.rounds.RaterSession`."""
    protocol: StudyProtocol = field(default_factory=StudyProtocol)
    verbose: bool = field(default=False)
    """Prints a line a request, without what may be secret."""


def check(settings: ServeSettings) -> str | None:
    """The token: None for none, or auto or new.

    :raises ConfigError: a server that others reach without a token, a token that can be guessed, a malformed URL
    """
    if not is_loopback(settings.host) and settings.token in (None, "none"):
        raise ConfigError(f"{settings.host} is reached from other machines: add --token auto, or use 127.0.0.1")
    if settings.public_url is not None:
        _origin(settings.public_url)
        if settings.token in (None, "none"):
            raise ConfigError("--public-url is for others to use: add --token auto")
    if settings.token == "none":
        return None
    if settings.token in (None, "auto", "new"):
        return settings.token or "auto"
    assert settings.token is not None
    if len(settings.token) < MIN_TOKEN or not settings.token.isascii() or not settings.token.isprintable():
        raise ConfigError(f"a token has at least {MIN_TOKEN} printable characters: use --token auto to have one drawn")
    return settings.token


def serve(store: StudyStore, study: Study, settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; ``say`` gets the URL once the server listens.

    :raises ConfigError: as :func:`check`, or the address cannot be bound
    """
    token, links = check(settings), None
    if token is not None:
        own = {"auto": None, "new": secrets.token_urlsafe(32)}.get(token, token)
        links = find_links(store, study, own)
        token = links.token
    bound = _bind_again(settings.host, settings.port, 0 if links is None else links.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = bound.getsockname()[1]
    if links is not None:
        served_at(store, study, links, port)
    origin = _origin(settings.public_url) if settings.public_url else None
    hosts = own_names(settings.host) | set(settings.allow_hosts)
    if origin is not None:
        hosts.add(str(urlsplit(origin).hostname))
    if not settings.host.strip("0.:"):  # bound to all addresses, of which none is a name to call
        host = socket.gethostname()
    app = make_app(
        store,
        study,
        token=token,
        admits=settings.raters or study.annotators * max(1, int(study.config.get("parallel_rounds", 1))),
        names=settings.names,
        hosts=hosts,
        public_origin=origin,
        limits=Limits(requests=settings.requests_per_second),
        lease_seconds=settings.lease_seconds,
        minimum_seconds=settings.minimum_seconds,
        owner_token=None if links is None else links.owner_token,
        since=None if links is None else links.since,
        protocol=settings.protocol,
    )
    if settings.verbose:
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("rlopt.feedback").setLevel(logging.INFO)
    # Its access log would show the token, which the first request carries in its query.
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS, timeout_keep_alive=30, lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS, http=PatientProtocol,
    )  # fmt: skip
    place = f"{origin or f'http://{host}:{port}'}/"
    say(place + ("" if token is None else f"?token={quote(token, safe='')}"))
    if links is not None:
        say(f"the results, for you alone: {place}?token={quote(links.owner_token, safe='')}")
    gc.collect()
    gc.freeze()  # a full collection of all modules stops every request; what requests leave is collected as before
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        gc.unfreeze()


def _origin(url: str) -> str:
    parts = web_address(url)
    if parts is None or parts.path.strip("/") or parts.query:
        raise ConfigError(f"--public-url {url!r}: use scheme and host only, such as https://rank.example.org")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _bind_again(host: str, port: int, last: int) -> socket.socket:
    """At the requested port; else at the last one, so that links continue to work, or at a free one."""
    if port or not last:
        return _bind(host, port)
    try:
        return _bind(host, last)
    except ConfigError:
        return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        family = socket.AF_INET
    else:
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)  # before the URL is printed: who follows it at once is not refused
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot serve on {host}:{port} ({error.strerror}): use another --host or --port") from None
    bound.set_inheritable(True)
    return bound
