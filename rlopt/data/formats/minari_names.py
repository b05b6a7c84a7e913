"""Minari's data-set ids and where its folders lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

ID = re.compile(r"(?:(?:hf|gcp)://[\w.-]+/)?((?:[\w-]+/)*[\w-]+-v\d+)")


RLOPT_KEY = "rlopt_metadata"
"""Entry of Minari's metadata in which :func:`rlopt.data.formats.minari_writing.write_minari` keeps ours."""


def minari_folder(local_id: str) -> Path:
    """Where Minari keeps a data set on this machine."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return (Path(root) if root else Path.home() / ".minari" / "datasets") / local_id
