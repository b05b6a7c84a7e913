"""The two pages, and the plain form with which everything works without scripts."""

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlopt.errors import AnswerError
from rlopt.feedback.rounds import LeaseError, ShownRound
from rlopt.feedback.server.auth import Access, csrf_matches, csrf_token
from rlopt.feedback.server.rater_view import RaterView
from rlopt.feedback.store import opaque

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


_PLACE = "place-"


def add_pages(app: FastAPI, view: RaterView, access: Access, secure: bool) -> None:
    """Adds ``/``, ``/enter``, ``/results`` and ``/form/answer``.

    :param secure: whether browsers reach the server by https
    """
    loader = PackageLoader("rlopt.feedback")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, auto_reload=False
    )
    for name in loader.list_templates():  # now, not in every thread of the first requests
        templates.get_template(name)

    def render(template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(templates.get_template(template).render(**values, name=view.study.name), status)

    def show(request: Request, page: str, title: str, status: int = 200, **values: Any) -> Response:
        common: dict[str, Any] = {"title": title, "page": page, "media": view.study.media}
        common["sees_results"] = request.scope["rlopt.owner"] or access.raters_see_results
        token = csrf_token(request.scope["rlopt.session"])
        return render(f"{page}.html", status, csrf_token=token, **common, **values)

    def rank(request: Request, error: str = "", status: int = 200, trained: str = "") -> Response:
        rater = view.rater_of(request)
        shown = view.session.lease(rater)
        values = {
            "instructions": view.store.instructions(view.study),
            "progress": view.progress_json(rater),
            "round": None if shown is None else view.round_json(shown),
            "places": _places(shown),
            "key": opaque(),
            "error": error,
            "training": view.training_json(rater, trained) if trained else None,
        }
        return show(request, "rank", "Rank", status, **values)

    consent = view.session.protocol.consent
    entry = Entry(access, functools.partial(render, media=view.study.media, consent=consent), secure, bool(consent))

    @app.get("/")
    def index(request: Request, token: str | None = None, rater: str | None = None, trained: str = "") -> Response:
        session = request.scope["rlopt.session"]
        only_owner = access.is_owner(session)
        newly_owner = access.is_owners(token) and not request.scope["rlopt.owner"]
        if session is None or newly_owner or (only_owner and (access.invites(token) or rater)):
            return entry.door(token, rater)
        if token is not None or rater is not None:
            return RedirectResponse("/results" if access.is_owners(token) else "/", 303)
        return RedirectResponse("/results", 303) if only_owner else rank(request, trained=trained)

    @app.get("/enter")
    def again(request: Request) -> Response:
        return RedirectResponse("/", 303)

    @app.post("/enter")
    async def enter(request: Request) -> Response:
        return await run_in_threadpool(entry.enter, request, await request.body())

    @app.get("/results")
    def results(request: Request) -> Response:
        return show(request, "results", "Results", results=view.results_json(view.rater_of(request)))

    @app.post("/form/answer")
    async def form(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(handle_form, request, body)

    def handle_form(request: Request, body: bytes) -> Response:
        try:
            fields = form_fields(body)
            if not csrf_matches(request.scope["rlopt.session"], fields.get("csrf_token")):
                return rank(request, "The page was out of date: please answer again.", 403)
            _act(view, view.rater_of(request), fields)
        except (AnswerError, LeaseError) as error:
            text = str(error)
            return rank(request, text[:1].upper() + text[1:] + ".", 400 if isinstance(error, AnswerError) else 409)
        trained = fields.get("round", "")
        told = view.training_json(view.rater_of(request), trained) if view.session.protocol.training_rounds else None
        return RedirectResponse("/" if told is None else f"/?trained={trained}", 303)


def _act(view: RaterView, rater: int, fields: dict[str, str]) -> None:
    what = fields.get("do")
    if what == "undo":
        view.session.undo(rater)
        return
    round_id, key = fields.get("round", ""), fields.get("key", "")
    if what == "skip":
        view.session.answer(rater, round_id, key, abstain=True)
    elif what == "submit":
        tiers, unranked = _ranked(fields)
        view.session.answer(rater, round_id, key, tiers, unranked)
    else:
        raise AnswerError("use one of the form's buttons")


def _ranked(fields: dict[str, str]) -> tuple[list[list[str]], list[str]]:
    """Tiers and unranked clips of the number fields: equal numbers tie, an empty field is unranked."""
    by_place: dict[int, list[str]] = {}
    unranked = []
    for name, value in fields.items():
        if not name.startswith(_PLACE):
            continue
        clip, text = name.removeprefix(_PLACE), value.strip()
        if not text:
            unranked.append(clip)
        elif text.isascii() and text.isdigit() and int(text[:9]) >= 1:
            by_place.setdefault(int(text[:9]), []).append(clip)
        else:
            raise AnswerError("a place is a whole number from 1, or empty")
    return [by_place[place] for place in sorted(by_place)], unranked


def _places(shown: ShownRound | None) -> dict[str, int]:
    """What the form's fields held before an undo."""
    if shown is None or shown.former is None:
        return {}
    return {clip: place for place, tier in enumerate(shown.former["tiers"], start=1) for clip in tier}
