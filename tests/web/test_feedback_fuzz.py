"""Whatever is sent, the server answers in one line, keeps its state, and never fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_client import BASE, app_of, entered
from ranking_study import make_study

from rlopt.feedback import schema
from rlopt.feedback.study import HumanStudy

TEXTS = st.text(max_size=40) | st.sampled_from(["", "\0", "../../x", "%00", "A" * 3000, "tiers", "ß" * 50])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=12,
)
Served = tuple[Any, dict[str, str], dict[str, Any], HumanStudy]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A browser with a round in its hands."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    study = make_study(folder, deadline_seconds=0.0)
    study.step()
    client, headers = entered(app_of(study))
    shown = client.post("/api/lease", json={}, headers=headers).json()["round"]
    yield client, headers, shown, study


def unanswered(study: HumanStudy) -> None:
    with study.store.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.answer)).scalar_one() == 0
        assert list(connection.execute(sa.select(schema.round_.c.status)).scalars()) == ["open"]


@settings(max_examples=150, deadline=None)
@given(body=VALUES, end=st.sampled_from(["answer", "skip", "renew"]), round_id=st.none() | TEXTS)
def test_any_json(served: Served, body: Any, end: str, round_id: str | None) -> None:
    import json
    from urllib.parse import quote

    client, headers, shown, study = served
    if isinstance(body, dict):  # near enough to an answer to get further in
        body = {"key": "k", "tiers": [[clip["id"]] for clip in shown["clips"]][:3], **body}
    path = f"/api/rounds/{shown['id'] if round_id is None else quote(round_id, safe='')}/{end}"
    sent = {**headers, "Content-Type": "application/json"}
    response = client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"), headers=sent)
    assert response.status_code in (400, 404, 405, 409) or (
        body == {} and end == "renew" and response.status_code == 200
    )
    unanswered(study)


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=300) | st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_any_form(served: Served, body: Any) -> None:
    from urllib.parse import urlencode

    client, headers, shown, study = served
    if isinstance(body, dict):
        places = {f"place-{clip['id']}": "1" for clip in shown["clips"][:3]}
        fields = {"csrf_token": headers["X-CSRF-Token"], "do": "submit", "round": shown["id"], "key": "k", **places}
        body = urlencode({**fields, **body}, errors="surrogatepass").encode()
    response = client.post("/form/answer", content=body, headers={"Origin": BASE})
    assert response.status_code in (400, 403, 409) and 'role="alert"' in response.text
    unanswered(study)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(
        ["Host", "Origin", "Cookie", "Range", "If-Range", "X-CSRF-Token", "Content-Type", "Content-Length"]
    ),
    value=st.binary(max_size=60).map(lambda data: data.replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\0", b" ")),
    post=st.booleans(),
)
def test_any_header(served: Served, name: str, value: bytes, post: bool) -> None:
    client, headers, shown, study = served
    sent = {**{key: text.encode() for key, text in headers.items()}, name: value}
    if post:
        response = client.post("/api/undo", json={}, headers=sent)
    else:
        response = client.get(shown["clips"][0]["url"], headers=sent)
    assert response.status_code < 500
    unanswered(study)
