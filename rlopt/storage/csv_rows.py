"""The one reader of CSV files, which may be anybody's: plain files, in bounded memory and time. Imports no torch."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from rlopt.storage.budget import open_plain

MAX_BYTES = 2**27
MAX_LINES = 2**19
MAX_LINE = 2**20
"""Characters of one line: a run logs some thousand."""


def csv_rows(path: Path, most_bytes: int | None = MAX_BYTES, most_lines: int | None = MAX_LINES) -> Iterator[list[str]]:
    """The rows of a CSV file one by one, its header first, without blank lines and the zeros that a crash leaves.

    :param most_bytes: of the file, and ``most_lines`` of it; None for a file that is known to be ours
    :raises ValueError: it is not a plain file, is larger, or has a longer line than :data:`MAX_LINE`
    :raises csv.Error: it is not a CSV file
    :raises OSError: it cannot be read
    """
    with open_plain(path, follow=True) as file:
        if most_bytes is not None and os.fstat(file.fileno()).st_size > most_bytes:
            raise ValueError(f"it is over {most_bytes} bytes")
        chunks = iter(lambda: file.read(2**20), b"")
        if most_lines is not None and sum(chunk.count(b"\n") for chunk in chunks) > most_lines:
            raise ValueError(f"it has over {most_lines} lines")
        file.seek(0)
        yield from (row for row in csv.reader(_lines(io.TextIOWrapper(file, "utf-8", "replace", newline=""))) if row)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    for count, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise ValueError(f"line {count} is over {MAX_LINE} characters")
        yield line.replace("\0", "")
