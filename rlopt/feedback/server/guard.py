"""What every request must pass before the application sees it, and what every response carries."""

import asyncio
import ipaddress
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlopt.errors import StudyError, one_line
from rlopt.feedback.server.auth import Access, RateLimit, csrf_matches
from rlopt.feedback.store import Rater

BODY_LIMIT = 64 * 1024
_BODY_SECONDS = 10.0
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer a browser would send the plain form's Origin as null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_HEADERS = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
ENTER = "/enter"
DOOR = ("/", ENTER)
"""What a browser without a session may ask for."""
RESULTS = ("/results", "/api/results")
_OWNERS = ("/", "/api/study", *RESULTS)
logger = logging.getLogger("rlopt.feedback")
_OWNER = Rater(0, "owner", None)


@dataclass(frozen=True)
class Limits:
    """Requests of one browser, a second."""

    requests: float = 20.0
    media: float = 200.0
    unknown: float = 5.0
    """Of an address whose rater is unknown: it has no session, and no valid link either."""
    lookups: float = 200.0
    """Of an address, of sessions that the server has not seen since it started."""


class Guard:
    """Host allow-list, rate limit, session, body limit, Origin and CSRF checks; security headers. Pure ASGI.

    :param hosts: names (without port) that the server may be called by; others may be a rebound DNS name
    :param public_origin: scheme and host of a proxy in front, such as ``https://rank.example.org``
    """

    def __init__(
        self, app: ASGIApp, access: Access, hosts: Collection[str], public_origin: str | None, limits: Limits
    ) -> None:
        self._app, self._access = app, access
        self._hosts, self._public_origin = {host.lower() for host in hosts}, public_origin
        self._limits = {
            "requests": RateLimit(limits.requests, 3 * limits.requests),
            "media": RateLimit(limits.media, 2 * limits.media),
            "unknown": RateLimit(limits.unknown, 6 * limits.unknown),
            "lookups": RateLimit(limits.lookups, 2 * limits.lookups),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        status, method = 0, scope["method"]
        if method == "HEAD":  # the same answer without its body (RFC 9110, section 9.3.2)
            scope = {**scope, "method": "GET"}

        async def guarded(message: Message) -> None:
            nonlocal status
            if method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(name, value) for name, value in message["headers"] if name not in _HEADERS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *_HEADERS.items()]}
            await send(message)

        refusal = await self._refusal(scope)
        if refusal is None and scope["method"] == "POST":
            body = await self._body(receive)
            if isinstance(body, bytes) and scope["path"] == ENTER and not self._may_enter(scope, body):
                body = _error(ENTER, "too many requests: wait a moment", 429, {"Retry-After": "2"})
            if isinstance(body, bytes):
                receive = _replayed(body, receive)
            else:
                refusal = body
        await (self._app if refusal is None else refusal)(scope, receive, guarded)
        # The query, which may carry the token, is left out.
        logger.info("%s %s %d", method, _printable(scope["path"]), status)

    async def _refusal(self, scope: Scope) -> Response | None:
        """Who asks, and whether to refuse: None to continue."""
        headers, path = Headers(scope=scope), scope["path"]
        if _host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this server is not known by that name", 421)
        cookies = _cookies(headers)
        session, owner = cookies.get(self._access.cookie), cookies.get(self._access.owner_cookie)
        scope["rlopt.owner"] = self._access.is_owner(owner)
        rater = self._access.known(session)
        if scope["rlopt.owner"] and (path in RESULTS or session is None):
            rater, session = _OWNER, owner
        elif rater is None and session is not None:
            if not self._limits["lookups"].allows(self._client(scope)):
                return _error(path, "too many requests: wait a moment", 429, {"Retry-After": "2"})
            try:
                rater = await run_in_threadpool(self._access.rater, session)
            except StudyError as error:
                logger.error("%s", one_line(error))
                return unavailable_response(path)
        scope["rlopt.session"], scope["rlopt.rater"] = (session, rater) if rater is not None else (None, None)
        is_static = path.startswith("/static/")
        if rater is None:
            # Who has the link is not kept out by others at the same address; the body of a POST comes later.
            is_form = path == ENTER and scope["method"] == "POST"
            limited = not is_form and not self._invited(scope)
            caller, bucket = self._client(scope), "unknown"
        else:
            limited = True
            caller, bucket = rater.public_id, "media" if path.startswith("/media/") else "requests"
        if limited and not is_static and not self._limits[bucket].allows(caller):
            return _error(path, "too many requests: wait a moment", 429, {"Retry-After": "2"})
        if scope["method"] not in ("GET", "POST"):
            return _error(path, "use GET or POST", 405, {"Allow": "GET, HEAD, POST"})
        if rater is None and path not in DOOR and not is_static:
            return _error(path, "open the link that rlopt rank serve printed first", 401)
        if path in RESULTS and rater is not _OWNER and not self._access.raters_see_results:
            return _error(path, "the results are for whoever runs the study", 403)
        if rater is _OWNER and path not in (*_OWNERS, ENTER) and not path.startswith(("/media/", "/static/")):
            return _error(path, "this browser is let in to see the results: to rank, open the raters' link", 403)
        if scope["method"] == "POST":
            return self._forged(headers, path, scope)
        return None

    def _invited(self, scope: Scope) -> bool:
        """Whether the request carries the link's token, or a rater's own."""
        return self._is_invitation(_fields(scope.get("query_string", b"")))

    def _is_invitation(self, fields: Mapping[str, str]) -> bool:
        access, token = self._access, fields.get("token")
        return access.invites(token) or access.is_owners(token) or access.signed(fields.get("rater"))

    def _client(self, scope: Scope) -> str:
        """The address of who asks; behind a proxy of our own, what the proxy says of it."""
        client = scope.get("client")
        address = client[0] if client else ""
        forwarded = Headers(scope=scope).get("x-forwarded-for", "").rpartition(",")[2].strip()
        if self._public_origin is not None and forwarded and _is_near(address):
            return forwarded[:64]
        return address

    def _may_enter(self, scope: Scope, body: bytes) -> bool:
        """Whether the form has an invitation, or its sender has not asked too often."""
        return self._is_invitation(_fields(body)) or self._limits["unknown"].allows(self._client(scope))

    def _forged(self, headers: Headers, path: str, scope: Scope) -> Response | None:
        """Refuses a POST that another site's page may have made."""
        if scope["rlopt.rater"] is None and path != ENTER:
            return _error(path, "open the link that rlopt rank serve printed first", 401)
        allowed = {f"{scope['scheme']}://{headers['host']}".lower()}
        if self._public_origin is not None:
            allowed.add(self._public_origin)
        if headers.get("origin", "").lower() not in allowed:
            return _error(path, "the request comes from another site", 403)
        if not path.startswith("/api/"):
            return None  # a plain form carries its token in the body, which the page checks
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _error(path, "send application/json", 415)
        if not csrf_matches(scope["rlopt.session"], headers.get("x-csrf-token")):
            return _error(path, "the page is out of date: load it again", 403)
        return None

    async def _body(self, receive: Receive) -> bytes | Response:
        """The whole body, or the refusal of one that is too large or too slow."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return Response(status_code=400)  # the client has left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > BODY_LIMIT:
                        return JSONResponse({"error": f"a request has at most {BODY_LIMIT} bytes"}, 413, _CLOSE)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            return JSONResponse({"error": "the request took too long"}, 408, _CLOSE)


_CLOSE = {"Connection": "close"}


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


UNAVAILABLE = "the study cannot be read at the moment: your answers so far are safe, and the page tries again"
_UNAVAILABLE_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>One moment</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<link rel="stylesheet" href="/static/page.css">
</head>
<body data-page="door">
<main id="main"><h1>One moment</h1><p>{UNAVAILABLE[:1].upper()}{UNAVAILABLE[1:]}.</p></main>
</body>
</html>
"""


def unavailable_response(path: str) -> Response:
    """503, for a program in JSON and for a person as a page that loads itself again."""
    if path.startswith("/api/"):
        return JSONResponse({"error": UNAVAILABLE}, 503, {"Retry-After": "5"})
    return HTMLResponse(_UNAVAILABLE_PAGE, 503, {"Retry-After": "5"})


def _error(path: str, reason: str, status: int, headers: dict[str, str] | None = None) -> Response:
    if path.startswith("/api/"):
        return JSONResponse({"error": reason}, status, headers)
    return PlainTextResponse(reason, status, headers)


def _printable(path: str) -> str:
    """A path for the log: a line end in it must not begin a line of its own."""
    return path.encode("unicode_escape").decode("ascii")


def _fields(text: bytes) -> dict[str, str]:
    """The fields of a query or a form; none where it is malformed."""
    try:
        return dict(parse_qsl(text.decode("ascii"), max_num_fields=20))
    except ValueError:
        return {}


def _is_near(address: str) -> bool:
    """Whether a proxy of our own may have that address: it is of this machine or of a private network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_loopback or found.is_private


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: found.value for name, found in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}
