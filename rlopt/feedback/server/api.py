"""The JSON interface of the page: what a browser, or a program in the place of a person, may ask for."""

import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from rlopt.errors import AnswerError, ConfigError, StudyError, one_line
from rlopt.evaluation.mp4 import write_vp9
from rlopt.feedback.files import TYPES, open_below
from rlopt.feedback.results import media_file
from rlopt.feedback.rounds import LeaseError
from rlopt.feedback.server.auth import Access
from rlopt.feedback.server.guard import logger, unavailable_response
from rlopt.feedback.server.rater_view import RaterView
from rlopt.feedback.store import MAX_NAME

WEBM = ".webm"
_drawing = threading.Lock()
"""Held while a clip is written again, so that one is at a time, and each once."""


def webm_of(root: Path, relative: str) -> str:
    """The path of a clip as WebM, which is written beside it when it is first asked for.

    :raises StudyError: the clip cannot be read, or its WebM not be written
    """
    wanted = str(PurePosixPath(relative).with_suffix(WEBM))
    with _drawing:
        if not (root / wanted).is_file():
            open_below(root, relative).close()  # follows no link
            try:
                write_vp9(root / relative, root / wanted)
            except ConfigError as error:
                raise StudyError(str(error)) from None
    return wanted


class ClipResponse(FileResponse):
    """A file below the media folder, or the ranges of it that are asked for: 200, 206, 400 or 416.

    :param tag: of what the file holds, for conditional ranges
    :raises StudyError: as :func:`open_below`
    """

    def __init__(self, root: Path, relative: str, tag: str) -> None:
        self._file = open_below(root, relative)
        # Starlette opens a path. This one is of the file that was checked, also if a link is put in its place.
        path = f"/dev/fd/{self._file.fileno()}" if os.name == "posix" else str(root / relative)
        headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{tag}"'}
        media_type = TYPES[PurePosixPath(relative).suffix.lower()]
        super().__init__(path, headers=headers, media_type=media_type, stat_result=os.fstat(self._file.fileno()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            # Starlette refuses units other than bytes; RFC 9110 (section 14.2) wants them ignored.
            headers = [
                (name, text) for name, text in scope["headers"] if name != b"range" or text.startswith(b"bytes=")
            ]
            await super().__call__({**scope, "headers": headers}, receive, send)


_Id = Annotated[str, Field(min_length=1, max_length=80)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(_Body):
    """An empty object."""


class Skipped(_Body):
    """The key of an answer without opinion."""

    key: _Id
    next: bool = False
    """Also gives out the next round, as a lease does, unless the rater is first told how a training round went."""


class Answered(Skipped):
    """An answer: every clip of the round once, in a tier (best first) or unranked."""

    tiers: list[list[_Id]] = []
    unranked: list[_Id] = []
    abstain: bool = False
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Named(_Body):
    """How a rater wants to be called; empty deletes it."""

    name: Annotated[str, Field(max_length=MAX_NAME)]


class _BodyRoute(APIRoute):
    """A route whose ``body`` is read from the request's bytes at once, about twice as fast as FastAPI does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request; the schema stays FastAPI's."""
        endpoint = self.endpoint
        model: type[_Body] = get_type_hints(endpoint)["body"]

        async def handler(request: Request) -> Response:
            body = model.model_validate_json(await request.body())
            return await run_in_threadpool(endpoint, request, body=body, **request.path_params)

        return handler


def add_api(app: FastAPI, view: RaterView, access: Access) -> None:
    """Adds the routes under ``/api`` and ``/media``. The guard has let in only who has a session."""
    router, posts = APIRouter(), APIRouter(route_class=_BodyRoute)

    # A response made here is sent as it is; of a dict FastAPI would check every value again, in another thread.
    @router.get("/api/study")
    def study(request: Request) -> Response:
        rater = request.scope["rlopt.rater"]
        own = {"results": access.raters_see_results, "return_code": access.return_code(rater) if rater.id else None}
        return JSONResponse({**view.study_json(rater.id), **own})

    @router.get("/api/results")
    def results(request: Request) -> Response:
        return JSONResponse(view.results_json(view.rater_of(request)))

    @posts.post("/api/lease")
    def lease(request: Request, body: Nothing) -> Response:
        return JSONResponse(view.lease_json(view.rater_of(request)))

    @posts.post("/api/rounds/{round_id}/renew")
    def renew(request: Request, round_id: str, body: Nothing) -> Response:
        return JSONResponse({"lease_seconds": int(view.session.renew(view.rater_of(request), round_id))})

    @posts.post("/api/rounds/{round_id}/answer")
    def answer(request: Request, round_id: str, body: Answered) -> Response:
        order = {"tiers": body.tiers, "unranked": body.unranked, "abstain": body.abstain, "seconds": body.seconds}
        return JSONResponse(view.answer_json(view.rater_of(request), round_id, body.key, body.next, **order))

    @posts.post("/api/rounds/{round_id}/skip")
    def skip(request: Request, round_id: str, body: Skipped) -> Response:
        return JSONResponse(view.answer_json(view.rater_of(request), round_id, body.key, body.next, abstain=True))

    @posts.post("/api/undo")
    def undo(request: Request, body: Nothing) -> Response:
        return JSONResponse(view.undo_json(view.rater_of(request)))

    @posts.post("/api/name")
    def name(request: Request, body: Named) -> Response:
        view.store.set_name(view.rater_of(request), body.name)
        return JSONResponse({"accepted": True})

    @router.get("/media/{media_id}")
    def media(media_id: str) -> Response:
        found = media_file(view.store, view.study, media_id.removesuffix(WEBM))
        if found is None or (media_id.endswith(WEBM) and not found[0].endswith(".mp4")):
            return Response(status_code=404)
        path, tag = found
        try:
            if media_id.endswith(WEBM):
                path, tag = webm_of(view.store.media_root, path), f"{tag}-webm"
            return ClipResponse(view.store.media_root, path, tag)
        except StudyError as error:
            logger.warning("%s", error)
            return Response(status_code=404)

    app.include_router(posts)
    app.include_router(router)


def add_errors(app: FastAPI) -> None:
    """Turns what goes wrong into one line and the right status."""

    def in_one_line(status: int) -> Any:
        def handler(request: Request, error: Exception) -> Response:
            return JSONResponse({"error": one_line(error)}, status)

        return handler

    def unavailable(request: Request, error: Exception) -> Response:
        logger.error("%s", one_line(error))  # which names the database: not for those who rank
        return unavailable_response(request.url.path)

    def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, ValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": one_line(f"{where}: {first['msg']}" if where else first["msg"])}, 400)

    def plain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": one_line(error.detail)}, error.status_code)

    app.add_exception_handler(AnswerError, in_one_line(400))
    app.add_exception_handler(LeaseError, in_one_line(409))
    app.add_exception_handler(StudyError, unavailable)
    app.add_exception_handler(ValidationError, malformed)
    app.add_exception_handler(HTTPException, plain)
