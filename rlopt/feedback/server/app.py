"""The application that serves one study: pages, JSON interface, clips and the bundled files, behind the guard."""

import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from rlopt import __version__
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.rounds import LEASE_SECONDS
from rlopt.feedback.server.api import add_api, add_errors
from rlopt.feedback.server.auth import Access
from rlopt.feedback.server.guard import Guard, Limits
from rlopt.feedback.server.pages import add_pages
from rlopt.feedback.server.rater_view import RaterView
from rlopt.feedback.store import Study, StudyStore

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STATIC = Path(__file__).parents[1] / "static"


def make_app(
    store: StudyStore,
    study: Study,
    *,
    token: str | None,
    admits: int = 1,
    names: Sequence[str] = (),
    hosts: Collection[str] = LOOPBACK,
    public_origin: str | None = None,
    limits: Limits | None = None,
    lease_seconds: float = LEASE_SECONDS,
    minimum_seconds: float = 0.0,
    owner_token: str | None = None,
    since: float | None = None,
    protocol: StudyProtocol | None = None,
) -> ASGIApp:
    """The application, for uvicorn or another ASGI server.

    :param token: what the link must carry; None lets everybody in, which is for one's own machine only
    :param admits: browsers that the link admits
    :param names: names of those whom it admits, in place of their number
    :param hosts: names that the server answers to
    :param public_origin: where a proxy serves it, ``https://rank.example.org``
    :param lease_seconds: how long a round is kept for a browser that is silent
    :param minimum_seconds: see :class:`rlopt.feedback.rounds.RaterSession`
    :param owner_token: what the link of the one who runs the study carries, who alone sees results then; without one,
        every rater does
    :param protocol: of the study; by default no rounds but those of the search, and no end
    :param since: when the link was made, see :class:`rlopt.feedback.server.auth.Access`
    """
    # The documentation pages load scripts from elsewhere; the schema alone does not.
    app = FastAPI(
        title="rlopt rank", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    view = RaterView(store, study, lease_seconds, minimum_seconds, protocol)
    access = Access(store, study, token, admits, names, owner_token, since)
    add_api(app, view, access)
    add_pages(app, view, access, secure=(public_origin or "").startswith("https://"))
    add_errors(app)
    app.mount("/static", StaticFiles(directory=_STATIC, check_dir=False))
    return Guard(app, access, hosts, public_origin, limits or Limits())


def own_names(host: str) -> set[str]:
    """The names by which a server bound to ``host`` is called."""
    names = {host.lower()}
    if is_loopback(host):
        names |= set(LOOPBACK)
    elif host in ("0.0.0.0", "::"):
        name = socket.gethostname().lower()
        names |= {*LOOPBACK, name, socket.getfqdn().lower(), *_addresses(name)}
    return names


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    return host.lower() in LOOPBACK or (host.startswith("127.") and host.replace(".", "").isdigit())


def _addresses(name: str) -> set[str]:
    try:
        return {str(info[4][0]).lower() for info in socket.getaddrinfo(name, None)}
    except OSError:
        return set()
