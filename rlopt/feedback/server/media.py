"""Clips sent whole or in HTTP ranges, without which a browser cannot seek in a video."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from rlopt.feedback.files import TYPES, open_below


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
