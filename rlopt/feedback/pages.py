"""The two pages, and the plain form with which everything works without scripts."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlopt.errors import AnswerError, StudyError
from rlopt.feedback.auth import Access, csrf_matches, csrf_token
from rlopt.feedback.desk_view import DeskView
from rlopt.feedback.rounds import ShownRound
from rlopt.feedback.store import opaque

_MAX_FIELDS = 2000
_PLACE = "place-"


def add_pages(app: FastAPI, view: DeskView, access: Access, secure: bool) -> None:
    """Adds ``/``, ``/results`` and ``/form/answer``.

    :param secure: whether browsers reach the server by https
    """
    templates = Environment(
        loader=PackageLoader("rlopt.feedback"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )

    def render(template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(templates.get_template(template).render(**values, name=view.study.name), status)

    def show(request: Request, page: str, title: str, status: int = 200, **values: Any) -> Response:
        common = {"title": title, "page": page, "media": view.study.media}
        token = csrf_token(request.scope["rlopt.session"])
        return render(f"{page}.html", status, csrf_token=token, **common, **values)

    def rank(request: Request, error: str = "", status: int = 200) -> Response:
        rater = view.rater_of(request)
        shown = view.desk.lease(rater)
        values = {
            "instructions": view.study.instructions,
            "progress": view.progress_json(rater),
            "round": None if shown is None else view.round_json(shown),
            "places": _places(shown),
            "key": opaque(),
            "error": error,
        }
        return show(request, "rank", "Rank", status, **values)

    @app.get("/")
    def index(request: Request, token: str | None = None) -> Response:
        session = request.scope["rlopt.session"]
        if session is not None and token is None:
            return rank(request)
        if token is None and not access.is_open:
            return render("denied.html", 401, used=False)
        admitted = access.admit(token, session)
        if admitted is None and session is None:
            return render("denied.html", 403, used=True)
        response = RedirectResponse("/", 303)
        if admitted is not None and admitted != session:
            response.set_cookie(
                access.cookie, admitted, max_age=60 * 86400, path="/", secure=secure, httponly=True, samesite="strict"
            )
        return response

    @app.get("/results")
    def results(request: Request) -> Response:
        return show(request, "results", "Results", results=view.results_json(view.rater_of(request)))

    @app.post("/form/answer")
    async def form(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(handle_form, request, body)

    def handle_form(request: Request, body: bytes) -> Response:
        try:
            fields = _fields(body)
            if not csrf_matches(request.scope["rlopt.session"], fields.get("csrf_token")):
                return rank(request, "The page was out of date: please answer again.", 403)
            _act(view, view.rater_of(request), fields)
        except (AnswerError, StudyError) as error:
            text = str(error)
            return rank(request, text[:1].upper() + text[1:] + ".", 400 if isinstance(error, AnswerError) else 409)
        return RedirectResponse("/", 303)


def _act(view: DeskView, rater: int, fields: dict[str, str]) -> None:
    what = fields.get("do")
    if what == "undo":
        view.desk.undo(rater)
        return
    round_id, key = fields.get("round", ""), fields.get("key", "")
    if what == "skip":
        view.desk.answer(rater, round_id, key, abstain=True)
    elif what == "submit":
        tiers, unranked = _ranked(fields)
        view.desk.answer(rater, round_id, key, tiers, unranked)
    else:
        raise AnswerError("use one of the form's buttons")


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form, each once."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise AnswerError("the form cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AnswerError("the form names a field twice")
    return fields


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
