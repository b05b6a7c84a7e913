"""Stores of ranking studies on both kinds of database."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import postgres
import pytest

from rlopt.feedback.store import StudyStore

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    folder = postgres.programs()
    if folder is None:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    with postgres.running(folder) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new, empty database; its clips belong into ``tmp_path / "media"``."""
    if request.param == "sqlite":
        return f"sqlite:///{quote(str(tmp_path))}/study.db"
    import psycopg

    url = request.getfixturevalue("postgres_url")
    name = f"study_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(url).replace("/postgres?", f"/{name}?")


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[StudyStore]:
    made = StudyStore(store_url, media=tmp_path / "media")
    yield made
    made.close()
