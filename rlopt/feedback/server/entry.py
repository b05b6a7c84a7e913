"""The way in: the link shows a button, and the press of it spends one of its admissions.

What only fetches the link, as the previews of chats do, spends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from rlopt.errors import AnswerError
from rlopt.feedback.server.auth import Access

_MAX_FIELDS = 2000
_COOKIE_SECONDS = 60 * 86400
_TAKEN = "Somebody else has taken that name meanwhile."


class Entry:
    """Pages for browsers without a session.

    :param render: template, status and values to a response
    :param secure: whether browsers reach the server by https
    :param consent: whether raters must agree to a text before they begin
    """

    def __init__(self, access: Access, render: Callable[..., Response], secure: bool, consent: bool = False) -> None:
        self._access, self._render, self._secure, self._consent = access, render, secure, consent

    def door(self, token: str | None, rater: str | None = None) -> Response:
        """``GET /`` without a session; changes nothing, unless the server is open to everybody.

        :param rater: the code of one who was here before, in another browser
        """
        access = self._access
        if access.is_owners(token) or access.signed(rater):
            names: tuple[str, ...] = ()
            values = {"token": token or "", "rater": rater or "", "names": names, "error": "", "consent": ""}
            return self._render("enter.html", 200, **values)
        if access.is_open and not access.names and not self._consent:
            return self._admitted(str(access.admit(None, None)))
        if token is None and not access.is_open:
            return self._render("denied.html", 401, used=False)
        if not access.knows(token):
            return self._render("denied.html", 403, used=True)
        return self._ask(token)

    def enter(self, request: Request, body: bytes) -> Response:
        """``POST /enter``: the press of the button. The guard has compared its Origin."""
        access, session = self._access, request.scope["rlopt.session"]
        try:
            fields = form_fields(body)
        except AnswerError:
            return self._render("denied.html", 400, used=True)
        token, name, code = fields.get("token"), fields.get("name"), fields.get("rater")
        if access.is_owners(token):
            return self._admitted(access.owner_session(), None, access.owner_cookie)
        if code and access.returning(code) is not None:
            return self._admitted(code, session)
        if self._consent and access.knows(token) and fields.get("consent") != "yes":
            return self._ask(token, "Agree to the text to begin, or close this page.", 400)
        admitted = access.admit(token, session, name, agreed=self._consent)
        if admitted is not None:
            return self._admitted(admitted, session)
        if access.knows(token) and access.names_left():
            return self._ask(token, "" if name is None else _TAKEN, 409)
        return self._render("denied.html", 403, used=True)

    def _ask(self, token: str | None, error: str = "", status: int = 200) -> Response:
        names = self._access.names_left()
        return self._render("enter.html", status, token=token or "", rater="", names=names, error=error)

    def _admitted(self, session: str, before: str | None = None, cookie: str | None = None) -> Response:
        response = RedirectResponse("/" if cookie is None else "/results", 303)
        if session != before:
            response.set_cookie(
                cookie or self._access.cookie, session, max_age=_COOKIE_SECONDS, path="/", secure=self._secure,
                httponly=True, samesite="strict",
            )  # fmt: skip
        return response


def form_fields(body: bytes) -> dict[str, str]:
    """The fields of a form, each once.

    :raises rlopt.errors.AnswerError: they cannot be read
    """
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise AnswerError("the form cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AnswerError("the form names a field twice")
    return fields
