"""Several people, one owner, slow and strange clients, servers and databases that restart."""

import asyncio
import contextlib
import csv
import gc
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from ranking_client import BASE, TOKEN, app_of, csrf_of, entered, make_client, press_begin
from ranking_study import answer_all, make_study, told_exactly

from rlopt.errors import StudyError
from rlopt.feedback.database import DatabaseUnreachableError
from rlopt.feedback.export import export
from rlopt.feedback.server import serving
from rlopt.feedback.server.guard import UNAVAILABLE, Limits
from rlopt.feedback.server.links import find_links, links_file, served_at
from rlopt.feedback.server.serving import _bind, _bind_again
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy

OWNER = "the-link-of-the-one-who-runs-it-0"


@pytest.fixture
def study(tmp_path: Path) -> HumanStudy:
    made = make_study(tmp_path, deadline_seconds=0.0, instructions="Prefer darker images.")
    assert made.step() is None
    return made


def test_only_the_owner_sees_the_results(study: HumanStudy) -> None:
    app = app_of(study, owner_token=OWNER)
    rater, owner = make_client(app), make_client(app)
    assert press_begin(rater).status_code == 303
    for path in ("/results", "/api/results"):
        refused = rater.get(path)
        assert refused.status_code == 403 and "whoever runs the study" in refused.text
    assert "/results" not in rater.get("/").text and rater.get("/api/study").json()["results"] is False
    assert owner.get("/", params={"token": OWNER}).status_code == 200
    assert press_begin(owner, OWNER).headers["location"] == "/results"
    assert owner.get("/").headers["location"] == "/results"
    headers = csrf_of(owner)
    assert owner.get("/api/results").json()["raters"] == [] and owner.get("/api/study").status_code == 200
    for path in ("/api/lease", "/api/undo", "/form/answer"):
        assert owner.post(path, json={}, headers=headers).status_code == 403, "the owner does not rank"
    assert len(study.store.raters(study.study)) == 1, "and is not a rater"
    assert owner.get("/", params={"token": TOKEN}).status_code == 200 and press_begin(owner).status_code == 303
    assert owner.get("/").status_code == owner.get("/results").status_code == 200, "unless it is the same person"
    assert 'href="/results"' in owner.get("/").text and len(study.store.raters(study.study)) == 2
    assert press_begin(make_client(app), OWNER + "x").status_code == 403


def test_a_rater_goes_on_in_another_browser(study: HumanStudy) -> None:
    app = app_of(study, names=("Ada", "Grace"))
    first = make_client(app)
    assert press_begin(first, name="Ada").status_code == 303
    code = first.get("/api/study").json()["return_code"]
    shown = first.post("/api/lease", json={}, headers=csrf_of(first)).json()["round"]
    phone = make_client(app_of(study, names=("Ada", "Grace")))
    page = phone.get("/", params={"rater": code})
    assert page.status_code == 200 and code in page.text and not phone.cookies
    assert press_begin(phone, None, rater=code).status_code == 303
    assert phone.post("/api/lease", json={}, headers=csrf_of(phone)).json()["round"] == shown
    assert first.get("/api/study").status_code == 200, "the first browser stays in"
    assert [rater.name for rater in study.store.raters(study.study)] == ["Ada"]
    for forged in (code[:-1] + ("0" if code[-1] != "0" else "1"), code[:32], "", "x" * 40):
        outsider = make_client(app)
        assert press_begin(outsider, None, rater=forged).status_code == 403 and not outsider.cookies
        assert outsider.get("/", params={"rater": forged}).status_code == 401


def test_names_and_admissions_are_not_given_again_by_a_restart(study: HumanStudy) -> None:
    since = study.store.clock() - 1
    assert press_begin(make_client(app_of(study, names=("Ada", "Grace"))), name="Ada").status_code == 303
    again = app_of(study, names=("Ada", "Grace"), since=since)
    assert 'value="Ada"' not in make_client(again).get("/", params={"token": TOKEN}).text
    assert press_begin(make_client(again), name="Ada").status_code == 409
    assert press_begin(make_client(again), name="Grace").status_code == 303
    assert press_begin(make_client(app_of(study, admits=2, since=since))).status_code == 403, "two are in already"
    assert press_begin(make_client(app_of(study, admits=3, since=since))).status_code == 303
    assert press_begin(make_client(app_of(study, admits=1, since=study.store.clock() + 1))).status_code == 303


def test_the_links_stay_the_same_and_are_their_owners_alone(study: HumanStudy) -> None:
    links = find_links(study.store, study.study)
    assert len(links.token) == len(links.owner_token) == 43 and links.token != links.owner_token, "256 bits each"
    assert find_links(study.store, study.study) == links
    path = links_file(study.store, study.study)
    assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600
    with _bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        served_at(study.store, study.study, links, port)
        assert find_links(study.store, study.study).port == port
        with _bind_again("127.0.0.1", 0, port) as other:
            assert other.getsockname()[1] != port, "taken: a free one"
    with _bind_again("127.0.0.1", 0, port) as again:
        assert again.getsockname()[1] == port
    own = find_links(study.store, study.study, "a-token-of-my-own-choice")
    assert own.token == "a-token-of-my-own-choice" and own.owner_token == links.owner_token
    path.write_text("{")
    assert find_links(study.store, study.study).token != own.token, "a damaged file is replaced"


def test_raters_are_told_nothing_of_the_database(
    study: HumanStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, headers = entered(app_of(study))

    def fails() -> Any:
        raise DatabaseUnreachableError("the database /secret/study.db refuses (disk I/O error): check it")

    monkeypatch.setattr(study.store.database, "read", fails)
    monkeypatch.setattr(study.store.database, "write", lambda durable=True: fails())
    with caplog.at_level(logging.ERROR, "rlopt.feedback"):
        said = client.post("/api/lease", json={}, headers=headers)
        page = client.get("/")
        unknown = make_client(app_of(study))
        unknown.cookies.set(next(iter(client.cookies)), "somebody")
        door = unknown.get("/")
    assert said.status_code == 503 and said.json() == {"error": UNAVAILABLE}
    for each in (page, door):
        assert each.status_code == 503 and each.headers["content-type"].startswith("text/html")
        assert "tries again" in each.text and "secret" not in each.text and 'http-equiv="refresh"' in each.text
    assert "/secret/study.db" in caplog.text, "who runs the server is told"


def test_a_path_cannot_forge_a_line_of_the_log(study: HumanStudy, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(app_of(study))
    with caplog.at_level(logging.INFO, "rlopt.feedback"):
        client.get("/x%0a%0dGET%20/api/results%20200%1b[31m")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.isprintable() and "\\n" in line and "\\x1b" in line


def test_a_caller_without_the_link_does_not_keep_newcomers_out(study: HumanStudy) -> None:
    app = app_of(study, limits=Limits(requests=1e6, media=1e6, unknown=0.2, lookups=1e6))
    outsider = make_client(app)
    codes = [outsider.get("/").status_code for _ in range(10)]
    codes += [outsider.post("/enter", data={"token": "x"}, headers={"Origin": BASE}).status_code for _ in range(10)]
    assert codes.count(429) >= 13, "who has no link is slowed down"
    newcomer = make_client(app)
    assert newcomer.get("/", params={"token": TOKEN}).status_code == 200
    assert press_begin(newcomer).status_code == 303
    outsider.cookies.set(next(iter(newcomer.cookies)), "a session that nobody has")
    assert newcomer.get("/").status_code == 200


def test_behind_a_proxy_each_address_counts_alone(study: HumanStudy) -> None:
    limits = Limits(requests=1e6, media=1e6, unknown=0.2, lookups=1e6)
    settings: dict[str, Any] = {"limits": limits, "public_origin": "http://127.0.0.1"}
    for origin, expected in (("http://127.0.0.1", 401), (None, 429)):
        app = app_of(study, **{**settings, "public_origin": origin})
        client = make_client(app)
        client = type(client)(app, base_url=BASE, follow_redirects=False, client=("127.0.0.1", 5000))
        for _ in range(8):
            last = client.get("/", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}).status_code
        assert last == 429
        assert client.get("/", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}).status_code == expected
    far = make_client(app_of(study, **settings))
    far = type(far)(far.app, base_url=BASE, follow_redirects=False, client=("9.9.9.9", 5000))
    codes = [far.get("/", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code for n in range(8)]
    assert codes[-1] == 429, "only a proxy that is near is believed"


def test_a_collection_of_garbage_stops_no_request_for_long(study: HumanStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: walked.append(len(gc.get_objects())))
    tracked = len(gc.get_objects())
    serving.serve(study.store, study.study, serving.ServeSettings(), lambda line: None)
    assert walked and walked[0] < tracked / 100, "what was there before the first request is not walked again"
    assert len(gc.get_objects()) >= tracked, "afterwards everything can be collected again"
    gc.freeze()  # as conftest.py does, for the tests that follow


@pytest.fixture
def served(study: HumanStudy, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a real server, which waits a third of a second for a request and keeps six quiet connections."""
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(serving, "MOST_QUIET", 6)
    config = uvicorn.Config(
        app_of(study), log_level="error", lifespan="off", http=serving.PatientProtocol, limit_concurrency=20,
        timeout_keep_alive=30,
    )  # fmt: skip
    server = uvicorn.Server(config)
    bound = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield int(bound.getsockname()[1])
    server.should_exit = True
    thread.join(10)


def _asked(port: int) -> int:
    return int(httpx2.get(f"http://127.0.0.1:{port}/", params={"token": TOKEN}, timeout=5).status_code)


def test_requests_that_never_end_deny_the_server_to_nobody(served: int) -> None:
    half = []
    for _ in range(40):
        half.append(socket.create_connection(("127.0.0.1", served), timeout=5))
        half[-1].sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served}\r\nX-a: ".encode())
    assert _asked(served) == 200, "while they are held"
    time.sleep(0.5)
    for one in half:
        assert _is_closed(one), "none is held for long"
        one.close()
    idle = []
    for _ in range(40):  # whole requests, of which the connection is kept
        idle.append(socket.create_connection(("127.0.0.1", served), timeout=5))
        idle[-1].sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served}\r\n\r\n".encode())
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 401")
    assert _asked(served) == 200
    assert len(serving.PatientProtocol.quiet) <= 6
    with httpx2.Client(base_url=f"http://127.0.0.1:{served}") as kept:
        for _ in range(3):
            assert kept.get("/", params={"token": TOKEN}).status_code == 200
            time.sleep(0.2)
    for one in idle:
        one.close()


def test_a_head_that_never_ends_is_cut_off(served: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 60.0)
    with socket.create_connection(("127.0.0.1", served), timeout=5) as one:
        with contextlib.suppress(ConnectionError):  # it may be cut off while it is sent
            one.sendall(b"GET / HTTP/1.1\r\nX-a: " + b"a" * (serving.HEAD_BYTES + 100))
        while not _is_closed(one):  # h11 answers 400 first
            pass
    assert _asked(served) == 200


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def test_new_instructions_replace_the_former_ones(
    study: HumanStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, _ = entered(app_of(study))
    later = make_study(tmp_path, deadline_seconds=0.0, instructions="Prefer lighter images.")
    assert later.study.instructions == "Prefer lighter images." and "replace" in capsys.readouterr().out
    assert client.get("/api/study").json()["instructions"] == "Prefer lighter images.", "by a server that runs on"
    assert "Prefer lighter images." in client.get("/").text
    again = make_study(tmp_path, deadline_seconds=0.0)
    assert again.study.instructions == "Prefer lighter images.", "to say nothing takes nothing back"


def test_names_are_in_every_format_if_they_are_asked_for(study: HumanStudy) -> None:
    rater = study.store.add_rater(study.study, "s" * 40, "Ada, of Ockham")
    answer_all(study, [rater.id], "a")
    for form in ("csv", "pairs"):
        for names in (False, True):
            out = io.StringIO()
            export(study.store, study.study, form, out, names=names)
            rows: list[dict[str, Any]]
            if form == "csv":
                rows = list(csv.DictReader(io.StringIO(out.getvalue())))
            else:
                rows = [json.loads(line) for line in out.getvalue().splitlines()]
            assert {row.get("name") for row in rows} == ({"Ada, of Ockham"} if names else {None})


def test_a_trainer_outlasts_a_database_that_restarts(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes away at each step once, and where an answer is consumed, before and after it has been."""
    study = make_study(store, poll_seconds=0.001)
    rater = store.add_rater(study.study, "s" * 40)
    session = study._session
    failing = {"live_round", "begin", "open", "answered", "state"}
    consumed: list[str] = []

    def once(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if name in failing:
                failing.discard(name)
                raise DatabaseUnreachableError("the database is away")
            return real(*given, **named)

        return call

    for name in tuple(failing):
        monkeypatch.setattr(session, name, once(name, getattr(session, name)))
    real_consume = session.consume

    def consume(*given: Any) -> Any:
        consumed.append("")
        if len(consumed) == 1:
            raise DatabaseUnreachableError("the database is away")
        made = real_consume(*given)
        if len(consumed) == 2:
            failing.add("state")  # away for so long that the state cannot be read either
            raise DatabaseUnreachableError("the connection broke after the commit")
        return made

    monkeypatch.setattr(session, "consume", consume)
    study.deadline_seconds = 0.0
    for _ in range(6):
        assert study.step() is None
    assert failing == {"state"}
    answer_all(study, [rater.id], "a")
    steps = [study.step() for _ in range(3)]
    assert [step is None for step in steps] == [True, True, False] and len(consumed) == 2 and not failing
    assert study.iteration == 1 and study.optimizer.digest() == told_exactly(1).digest(), "used once"
    assert capsys.readouterr().out.count("waiting for the database") == 2
    assert study.step() is None
    answer_all(study, [rater.id], "b")
    assert study.step() is not None and study.optimizer.digest() == told_exactly(2).digest()
    study.outage_seconds = 0.0
    failing.add("answered")
    with pytest.raises(StudyError, match="is away"):
        study.step()


def test_all_processes_go_by_the_clock_of_the_database(
    store: StudyStore, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.database.is_sqlite:
        pytest.skip("a file of SQLite is of one machine, and so of one clock")
    other = StudyStore(store_url, media=tmp_path / "media", create=False)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    ahead = other.clock()
    monkeypatch.setattr(time, "time", real)
    assert abs(ahead - store.clock()) < 1.0
    other.close()
