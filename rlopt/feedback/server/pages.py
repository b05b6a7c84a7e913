"""The two pages, and the plain form with which everything works without scripts."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlopt.errors import AnswerError
from rlopt.feedback.rounds import LeaseError, ShownRound
from rlopt.feedback.server.auth import Access, csrf_matches, csrf_token
from rlopt.feedback.server.entry import Entry, form_fields
from rlopt.feedback.server.rater_view import RaterView
from rlopt.feedback.store import opaque

_PLACE = "place-"


def add_pages(app: FastAPI, view: RaterView, access: Access, secure: bool) -> None:
    """Adds ``/``, ``/enter``, ``/results`` and ``/form/answer``.

    :param secure: whether browsers reach the server by https
    """
    templates = Environment(
        loader=PackageLoader("rlopt.feedback"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )

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
