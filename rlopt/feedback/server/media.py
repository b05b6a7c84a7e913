"""Clips sent whole or in HTTP ranges, without which a browser cannot seek in a video."""

from __future__ import annotations

import os
import threading
from pathlib import Path, PurePosixPath

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from rlopt.errors import ConfigError, StudyError
from rlopt.evaluation.mp4 import write_vp9
from rlopt.feedback.files import TYPES, open_below

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
