"""Colour on terminals that show it; NO_COLOR and FORCE_COLOR decide otherwise. Imports no torch."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_CODES = {"bold": "1", "red": "1;31", "yellow": "33", "green": "32"}


def painted(text: str, style: str, stream: TextIO | None = None) -> str:
    """``text`` in a style where ``stream`` shows colours, else as it is.

    :param style: bold, red, yellow or green
    :param stream: default stdout
    """
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if shows_colour(stream or sys.stdout) else text


def shows_colour(stream: TextIO) -> bool:
    """Whether a stream shows colours: NO_COLOR (https://no-color.org), then FORCE_COLOR, then a terminal decides."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def marked(line: str) -> str:
    """A line of a running command with what stands out in it: warnings, and results."""
    if line.startswith("warning: "):
        return painted("warning: ", "yellow") + line.removeprefix("warning: ")
    head, colon, rest = line.partition(": ")
    return f"{painted(head, 'green')}{colon}{rest}" if head in ("best evaluation", "done") else line
