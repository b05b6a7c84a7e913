"""Fetches D4RL's published files, and notes the checksum of what came."""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlopt.data.names import DATA_DIR_VARIABLE, PUBLISHED_AT, D4RLName, local_file
from rlopt.errors import DataError, one_line
from rlopt.storage.budget import open_plain

HOST_VARIABLE = "RLOPT_D4RL_URL"
"""Address of a mirror with the folders of :data:`rlopt.data.names.PUBLISHED_AT`."""
_TIMEOUT = 30.0
_BLOCK = 2**20
_LONGEST_NOTE = 4096


def checksum_file(path: Path) -> Path:
    """Where the SHA-256 of a downloaded file is noted, in the format of ``sha256sum``."""
    return path.with_name(f"{path.name}.sha256")


def find_or_download(entry: D4RLName, download: bool, report: Callable[[str], None]) -> Path:
    """The local file of a D4RL data set; :func:`verify` tells whether it is what was downloaded.

    :param download: fetch it if it is not there
    :param report: told in one line each what is fetched, its size and its SHA-256
    :raises rlopt.errors.DataError: no file and no download, no known address, or the network or the disk fails
    """
    path = local_file(entry)
    if path.exists():
        return path
    if entry.url is None:
        raise DataError(
            f"{entry.name}: no file {path}, and its published address is not known: put the file there, or set "
            f"{DATA_DIR_VARIABLE}"
        )
    url = f"{os.environ.get(HOST_VARIABLE, PUBLISHED_AT).rstrip('/')}/{entry.path}"
    if not download:
        raise DataError(
            f"{entry.name}: no file {path}: fetch it with rlopt data info {entry.name} --download (from {url}), put it "
            f"there, or set {DATA_DIR_VARIABLE} to its folder"
        )
    if not re.match(r"https?://", url):
        raise DataError(f"{url} is not a web address: set {HOST_VARIABLE} to one that begins with http:// or https://")
    return fetch(url, path, report)


def fetch(url: str, path: Path, report: Callable[[str], None]) -> Path:
    """Downloads ``url`` to ``path``, written beside and renamed when whole; notes its SHA-256 beside it.

    :raises rlopt.errors.DataError: for an answer that is not a file, no connection, or a disk that cannot be written
    """
    temporary = path.with_name(f".downloading-{path.name}")
    report(f"downloading {url}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(temporary, "wb") as file:
            size, digest = _copy(response, file)
            file.flush()
            os.fsync(file.fileno())
        checksum_file(path).write_text(f"{digest}  {path.name}\n")
        os.replace(temporary, path)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}; put the file at {path}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, EOFError) as error:
        reason = one_line(getattr(error, "reason", "") or error)
        raise DataError(f"{url} cannot be fetched ({reason}): try again, or put the file at {path}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or one_line(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    report(f"{path}: {size} bytes, SHA-256 {digest}")
    return path


def _copy(response: Any, file: Any) -> tuple[int, str]:
    declared = response.headers.get("Content-Length")
    digest, size = hashlib.sha256(), 0
    while block := response.read(_BLOCK):
        digest.update(block)
        file.write(block)
        size += len(block)
    if size == 0 or (declared is not None and declared.isdigit() and size != int(declared)):
        raise EOFError(f"{size} of {declared} bytes came")
    return size, digest.hexdigest()


def verify(path: Path) -> None:
    """Compares a file with the checksum noted beside it, if there is one.

    :raises rlopt.errors.DataError: the file is not what was downloaded
    """
    note = checksum_file(path)
    if not note.is_file():
        return
    with open_plain(note, follow=True) as file:
        noted = file.read(_LONGEST_NOTE).decode(errors="replace").split()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not noted or noted[0].lower() != digest:
        raise DataError(f"{path} (SHA-256 {digest}) is not what {note.name} says: delete both and fetch it again")
