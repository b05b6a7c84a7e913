"""Clips sent in HTTP ranges, without which a browser cannot seek in a video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath

from starlette.responses import Response, StreamingResponse

from rlopt.feedback.files import TYPES, open_below

_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def send(root: Path, relative: str, tag: str, range_header: str | None, if_range: str | None) -> Response:
    """The file, or the one range of it that is asked for: 200, 206 or 416 (RFC 9110, section 14).

    A header that asks for several ranges, or that is malformed, is answered with the whole file, as the RFC allows.

    :param tag: of what the file holds, for conditional ranges
    :raises StudyError: as :func:`open_below`
    """
    file = open_below(root, relative)
    size = os.fstat(file.fileno()).st_size
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600", "ETag": f'"{tag}"'}
    media_type = TYPES[PurePosixPath(relative).suffix.lower()]
    whole = range_header is None or (if_range is not None and if_range != f'"{tag}"')
    span = None if whole or range_header is None else _span(range_header, size)
    if span is None:
        headers["Content-Length"] = str(size)
        return StreamingResponse(_read(file, 0, size), 200, headers, media_type)
    first, length = span
    if length <= 0:
        file.close()
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers |= {"Content-Length": str(length), "Content-Range": f"bytes {first}-{first + length - 1}/{size}"}
    return StreamingResponse(_read(file, first, length), 206, headers, media_type)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First byte and length; a length of 0 if the file has no such bytes; None if the header is to be ignored."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first_text, last_text = found.groups()
    if not first_text:
        length = min(int(last_text), size)
        return size - length, length
    first, last = int(first_text), int(last_text) if last_text else size - 1
    if last_text and last < first:
        return None
    return (first, min(last, size - 1) - first + 1) if first < size else (first, 0)


def _read(file: BufferedReader, first: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(_CHUNK, length))):
            length -= len(chunk)
            yield chunk
