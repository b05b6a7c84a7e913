"""What the server of a ranking study refuses, and what it never gives away."""

import hmac
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ranking_client import BASE, NO_LIMITS, TOKEN, app_of, csrf_of, entered, exact_answer, make_client, press_begin
from ranking_study import make_study

from rlopt.cli.main import main
from rlopt.errors import ConfigError, StudyError
from rlopt.feedback import schema
from rlopt.feedback.files import open_below
from rlopt.feedback.server.app import own_names
from rlopt.feedback.server.auth import RateLimit, csrf_token
from rlopt.feedback.server.guard import BODY_LIMIT, Limits
from rlopt.feedback.server.serving import ServeSettings, check
from rlopt.feedback.study import HumanStudy


@pytest.fixture
def study(tmp_path: Path) -> HumanStudy:
    made = make_study(tmp_path, deadline_seconds=0.0)
    assert made.step() is None
    return made


def test_other_addresses_are_refused_without_a_token() -> None:
    assert ServeSettings().host == "127.0.0.1"
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        for token in (None, "none"):
            with pytest.raises(ConfigError, match="--token auto"):
                check(ServeSettings(host=host, token=token))
        assert check(ServeSettings(host=host, token="auto")) == "auto"
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert check(ServeSettings(host=host)) == "auto", "which find_links draws"
        assert check(ServeSettings(host=host, token="none")) is None
    with pytest.raises(ConfigError, match="at least 20"):
        check(ServeSettings(token="short"))
    with pytest.raises(ConfigError, match="--token auto"):
        check(ServeSettings(public_url="https://rank.example.org"))
    for address in ("https://rank.example.org/rank", "http://[", "https://rank.example.org:port"):
        with pytest.raises(ConfigError, match="scheme and host only"):
            check(ServeSettings(public_url=address, token="auto"))
    assert main(["rank", "serve", "nowhere", "--host", "0.0.0.0"]) == 2


def test_without_the_token_nobody_gets_anything(study: HumanStudy) -> None:
    client = make_client(app_of(study))
    with study.store.database.read() as connection:
        media_id = connection.execute(sa.select(schema.clip.c.media_id)).scalars().first()
    for path in ("/results", "/api/study", "/api/results", "/api/openapi.json", f"/media/{media_id}", "/nothing"):
        assert client.get(path).status_code == 401, path
    for path in ("/api/lease", "/api/undo", "/form/answer", "/api/rounds/x/answer"):
        assert client.post(path, json={}, headers={"Origin": BASE}).status_code == 401, path
    assert client.get("/").status_code == 401
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü" * 30):
        assert client.get("/", params={"token": wrong}).status_code == 403
        assert not client.cookies
    client.cookies.set("rlopt_rank_" + "0" * 12, "made up")
    assert client.get("/results").status_code == 401


def test_the_token_becomes_a_strict_cookie_once(study: HumanStudy) -> None:
    app = app_of(study, admits=1)
    client = make_client(app)
    response = press_begin(client)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie and TOKEN not in cookie
    assert "Domain" not in cookie and "Secure" not in cookie
    assert TOKEN not in client.get("/").text
    for again in (client.get("/", params={"token": TOKEN}), press_begin(client)):
        assert again.status_code == 303 and "set-cookie" not in again.headers, "the same browser needs no second one"
    second = press_begin(make_client(app))
    assert second.status_code == 403 and "set-cookie" not in second.headers
    secure = press_begin(make_client(app_of(study, public_origin="https://127.0.0.1")))
    assert "Secure" in secure.headers["set-cookie"]


def test_who_only_fetches_the_link_does_not_use_it_up(study: HumanStudy) -> None:
    """As the previews of chats do, before the person comes to whom the link was sent."""
    app = app_of(study, admits=1)
    for method in ("GET", "HEAD"):
        for _ in range(3):
            robot = make_client(app).request(method, "/", params={"token": TOKEN})
            assert robot.status_code == 200 and "set-cookie" not in robot.headers
            assert "no-store" in robot.headers["cache-control"] and (method == "HEAD") == (not robot.content)
    with study.store.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.rater)).scalar_one() == 0
    assert press_begin(make_client(app)).status_code == 303


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "https://127.0.0.1", "http://127.0.0.1:81"])
def test_no_other_site_can_press_the_button(study: HumanStudy, origin: str | None) -> None:
    client = make_client(app_of(study, admits=1))
    headers = {} if origin is None else {"Origin": origin}
    assert client.post("/enter", data={"token": TOKEN}, headers=headers).status_code == 403
    assert not client.cookies and press_begin(client).status_code == 303


def test_what_the_button_may_send(study: HumanStudy) -> None:
    client = make_client(app_of(study))
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", "ü" * 30):
        assert press_begin(client, wrong).status_code == 403
    for body in (b"", b"token", b"\xff=\xfe", b"token=a&token=b", b"token=" + b"a" * 60_000):
        assert client.post("/enter", content=body, headers={"Origin": BASE}).status_code in (400, 403), body[:20]
    assert client.post("/enter", content=b"a" * 70_000, headers={"Origin": BASE}).status_code == 413
    assert not client.cookies
    assert client.get("/enter").headers["location"] == "/"


@pytest.mark.parametrize("token", [TOKEN, None])
def test_named_raters_say_who_they_are(study: HumanStudy, token: str | None) -> None:
    app = app_of(study, token=token, names=("Ada", "<b>Grace</b>"))
    link = {} if token is None else {"token": token}
    client = make_client(app)
    page = client.get("/", params=link)
    assert page.status_code == 200 and 'value="Ada"' in page.text and "<b>" not in page.text
    for wrong in ({}, {"name": ""}, {"name": "Eve"}):
        response = press_begin(client, token, **wrong)
        assert response.status_code == 409 and 'value="Ada"' in response.text and not client.cookies
    assert press_begin(client, token, name="Ada").status_code == 303
    other = make_client(app)
    taken = press_begin(other, token, name="Ada")
    assert taken.status_code == 409 and "taken that name" in taken.text and 'value="Ada"' not in taken.text
    assert press_begin(other, token, name="<b>Grace</b>").status_code == 303
    assert press_begin(make_client(app), token, name="Ada").status_code == 403
    assert press_begin(client, token).status_code == 303, "who is in need not say it again"
    with study.store.database.read() as connection:
        names = connection.execute(sa.select(schema.rater.c.name).order_by(schema.rater.c.id)).scalars().all()
    assert names == ["Ada", "<b>Grace</b>"]


def test_head_is_answered_as_get_without_a_body(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    clip = client.post("/api/lease", json={}, headers=headers).json()["round"]["clips"][0]
    for path in ("/", "/results", "/api/study", "/api/results", "/static/page.css", "/nothing", clip["url"]):
        get, head = client.get(path), client.head(path)
        assert head.status_code == get.status_code and not head.content, path
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["content-security-policy"] == get.headers["content-security-policy"]
    part = client.head(clip["url"], headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and part.headers["content-length"] == "10" and not part.content
    assert make_client(app_of(study)).head("/").status_code == 401


def test_a_session_outlives_the_server_but_is_stored_as_a_digest(study: HumanStudy) -> None:
    client, _ = entered(app_of(study))
    ((name, secret),) = client.cookies.items()
    again = make_client(app_of(study, token="another-token-of-another-server"))
    again.cookies.set(name, secret)
    assert again.get("/results").status_code == 200
    with study.store.database.read() as connection:
        assert secret not in repr(connection.execute(sa.select(schema.rater)).all())


def test_secrets_are_compared_in_constant_time(study: HumanStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    client, headers = entered(app_of(study))
    assert compared.count((TOKEN.encode(), TOKEN.encode())) == 4, "by the guard and the door, of the link and the form"
    compared.clear()
    client.post("/api/lease", json={}, headers=headers)
    token = headers["X-CSRF-Token"].encode()
    assert (token, token) in compared


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "127.0.0.1@evil.example"]
)
def test_the_server_answers_to_its_own_names_only(study: HumanStudy, host: str) -> None:
    """A page whose DNS name was pointed at 127.0.0.1 afterwards sends its own name."""
    client, headers = entered(app_of(study))
    assert client.get("/results", headers={"Host": host}).status_code == 421
    assert client.post("/api/lease", json={}, headers={**headers, "Host": host}).status_code == 421


def test_own_names() -> None:
    assert own_names("127.0.0.1") == {"127.0.0.1", "localhost", "::1"}
    assert own_names("192.0.2.7") == {"192.0.2.7"}
    assert {"localhost", "127.0.0.1"} < own_names("0.0.0.0") and "0.0.0.0" in own_names("0.0.0.0")


def test_other_names_can_be_allowed(study: HumanStudy) -> None:
    client = make_client(app_of(study, hosts=("rank.example.org",)))
    assert client.get("/", headers={"Host": "Rank.Example.org:8080"}).status_code == 401
    assert client.get("/").status_code == 421


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://127.0.0.1", "http://127.0.0.1:81", "http://127.0.0.1.evil.example"],
)
def test_posts_of_other_sites_are_refused(study: HumanStudy, origin: str | None) -> None:
    client, headers = entered(app_of(study))
    sent = {"X-CSRF-Token": headers["X-CSRF-Token"]} | ({} if origin is None else {"Origin": origin})
    assert client.post("/api/lease", json={}, headers=sent).status_code == 403
    form = {"csrf_token": headers["X-CSRF-Token"], "do": "undo"}
    assert client.post("/form/answer", data=form, headers=sent).status_code == 403


def test_a_proxys_origin_is_allowed(study: HumanStudy) -> None:
    client, headers = entered(app_of(study, public_origin="http://rank.example.org"))
    assert client.post("/api/lease", json={}, headers={**headers, "Origin": "http://rank.example.org"}).is_success


def test_posts_need_the_token_of_their_own_page(study: HumanStudy) -> None:
    app = app_of(study)
    client, headers = entered(app)
    _, others = entered(app)
    assert headers != others
    for wrong in (None, "", "0" * 64, others["X-CSRF-Token"], "ü"):
        sent = {"Origin": BASE} | ({} if wrong is None else {"X-CSRF-Token": wrong.encode()})
        assert client.post("/api/lease", json={}, headers=sent).status_code == 403, wrong
        form = {"do": "undo"} | ({} if wrong is None else {"csrf_token": wrong})
        assert client.post("/form/answer", data=form, headers={"Origin": BASE}).status_code == 403, wrong
    sent = {**headers, "Content-Type": "text/plain"}
    assert client.post("/api/lease", content="{}", headers=sent).status_code == 415, (
        "a form of another site may send it"
    )
    ((_, secret),) = client.cookies.items()
    assert headers["X-CSRF-Token"] == csrf_token(secret) and secret not in headers["X-CSRF-Token"]


def test_every_response_carries_the_headers(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    fresh = make_client(app_of(study))
    clip = client.post("/api/lease", json={}, headers=headers).json()["round"]["clips"][0]
    responses = [
        fresh.get("/"), fresh.get("/api/study"), fresh.get("/", params={"token": "x"}),
        client.get("/"), client.get("/results"), client.get("/api/results"), client.get("/nothing"),
        client.get(clip["url"]), client.get(clip["url"], headers={"Range": "bytes=9999-"}),
        client.get("/static/page.css"), client.get("/results", headers={"Host": "evil.example"}),
        client.post("/api/lease", json={}), client.delete("/"), client.options("/api/lease", headers={"Origin": "http://a"}),
    ]  # fmt: skip
    for response in responses:
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"
        assert not [name for name in response.headers if name.startswith("access-control-")], "no CORS"
        assert "server" not in response.headers
        assert "cache-control" in response.headers


def test_pages_have_nothing_inline(study: HumanStudy) -> None:
    client, _ = entered(app_of(study))
    for page in (client.get("/").text, client.get("/results").text, make_client(app_of(study)).get("/").text):
        assert not re.search(
            r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", page, re.IGNORECASE
        )


def test_media_are_named_by_random_ids_only(study: HumanStudy, tmp_path: Path) -> None:
    client, headers = entered(app_of(study))
    clips = client.post("/api/lease", json={}, headers=headers).json()["round"]["clips"]
    for clip in clips:
        assert re.fullmatch(r"/media/[0-9a-f]{32}", clip["url"]) and re.fullmatch(
            r"/media/[0-9a-f]{32}", clip["poster"]
        )
        assert re.fullmatch(r"[0-9a-f]{32}", clip["id"])
    names = [clip["id"] for clip in clips] + [clip["url"] for clip in clips] + [clip["poster"] for clip in clips]
    assert len(set(names)) == len(names), "no id tells which clips belong together"
    file = next((tmp_path / "media").glob("*/round-*/0.png")).relative_to(tmp_path / "media")
    for name in (
        file.as_posix(),
        f"..%2f{file}",
        "%2e%2e/study.db",
        "..%5cstudy.db",
        "0",
        clips[0]["id"],
        "a%00b",
        "x" * 5000,
    ):
        assert client.get(f"/media/{name}").status_code == 404, name
    for name in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "....//app.py", "/etc/passwd", "%2fetc/passwd"):
        assert client.get(f"/static/{name}").status_code in (404, 405), name


def test_paths_that_lead_out_and_links_are_refused(study: HumanStudy, tmp_path: Path) -> None:
    """Even if somebody wrote such a path into the database."""
    root, secret = tmp_path / "media", tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (root / "link.png").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    wrong = [
        "../secret.png",
        str(secret),
        "link.png",
        "folder/secret.png",
        "pipe.png",
        "",
        ".",
        "a/../../secret.png",
        "nul\0",
    ]
    for path in wrong:
        with pytest.raises(StudyError):
            open_below(root, path).close()
    client, headers = entered(app_of(study))
    clip = client.post("/api/lease", json={}, headers=headers).json()["round"]["clips"][0]
    for path in wrong[:5]:
        with study.store.database.write() as connection:
            mine = schema.clip.c.media_id == clip["url"].removeprefix("/media/")
            connection.execute(sa.update(schema.clip).where(mine).values(path=path))
        response = client.get(clip["url"])
        assert response.status_code == 404 and b"secret" not in response.content, path


def test_bodies_are_limited(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    sent = {**headers, "Content-Type": "application/json"}
    padded = b"{" + b" " * (BODY_LIMIT - 2) + b"}"
    assert client.post("/api/lease", content=padded, headers=sent).status_code == 200
    assert client.post("/api/lease", content=padded + b" ", headers=sent).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    assert client.post("/api/lease", content=chunks(), headers=sent).status_code == 413
    assert client.post("/form/answer", content=b"a=" + b"b" * BODY_LIMIT, headers={"Origin": BASE}).status_code == 413


def test_each_browser_has_a_rate_limit_of_its_own(study: HumanStudy) -> None:
    app = app_of(study, limits=Limits(requests=1e-6, media=1e6, unknown=1e6))
    slow = app_of(study, limits=NO_LIMITS)
    client, _ = entered(slow)
    ((name, secret),) = client.cookies.items()
    limited = make_client(app)
    limited.cookies.set(name, secret)
    now = 0.0
    bucket = RateLimit(rate=2.0, burst=3.0, clock=lambda: now)
    assert [bucket.allows("a") for _ in range(4)] == [True, True, True, False] and bucket.allows("b")
    now = 0.5
    assert [bucket.allows("a") for _ in range(2)] == [True, False]
    now = 1000.0
    assert [bucket.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limited.get("/api/study").status_code == 429, "three millionths of a request are in the bucket"
    assert client.get("/api/study").status_code == 200


def test_nobody_can_try_tokens_fast(study: HumanStudy) -> None:
    client = make_client(app_of(study, limits=Limits(unknown=1e-3 / 6)))
    codes = [client.get("/", params={"token": "x"}).status_code for _ in range(3)]
    assert codes[-1] == 429


def test_no_response_holds_a_return(study: HumanStudy) -> None:
    """The number by which candidates could be ranked without looking stays in the server's process."""
    client, headers = entered(app_of(study))
    bodies = []
    for number in range(2):
        leased = client.post("/api/lease", json={}, headers=headers)
        shown = leased.json()["round"]
        body = exact_answer(study.store, shown, f"{number}")
        place = f"/api/rounds/{shown['id']}"
        bodies += [leased, client.get("/"), client.post(f"{place}/answer", json=body, headers=headers)]
        bodies += [
            client.post("/api/undo", json={}, headers=headers),
            client.post(f"{place}/renew", json={}, headers=headers),
        ]
        bodies += [client.post(f"{place}/answer", json={**body, "key": f"{number} again"}, headers=headers)]
        bodies += [client.get(clip[file]) for clip in shown["clips"] for file in ("url", "poster")]
        assert study.step() is not None and study.step() is None
    bodies += [client.get(path) for path in ("/", "/results", "/api/results", "/api/study", "/api/openapi.json")]
    with study.store.database.read() as connection:
        returns = connection.execute(sa.select(schema.clip.c.hidden_return)).scalars().all()
    assert len(returns) >= 8 and all(len(f"{value:.6g}") > 6 for value in returns), "long enough not to occur by chance"
    for response in bodies:
        said = response.text + repr(response.headers)
        for value in returns:
            assert f"{abs(value):.5g}" not in said, response.url
        assert "slot" not in said and "params" not in said and "round-" not in said


def test_nothing_secret_is_logged(study: HumanStudy, tmp_path: Path) -> None:
    """A real process: what it prints, but for the one line with the link, holds neither token nor session."""
    import httpx2

    command = [sys.executable, "-m", "rlopt.cli.main", "rank", "serve", str(tmp_path), "--verbose"]
    command += ["--raters", "Ada Lovelace,Grace"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            url = server.stdout.readline().strip()
            found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/\?token=([\w-]{43})", url)
            assert found is not None, url
            second = server.stdout.readline()
            with httpx2.Client(base_url=found[1]) as client:
                assert client.get(url).status_code == 200
                assert press_begin(client, found[2], found[1], name="Ada Lovelace").status_code == 303
                session = next(iter(client.cookies.values()))
                csrf = {**csrf_of(client), "Origin": found[1]}
                assert client.post("/api/lease", json={}, headers=csrf).status_code == 200
                assert client.get("/nothing", params={"token": found[2]}).status_code == 404
                client.get("/", params={"token": found[2] + "x"})
            server.send_signal(signal.SIGTERM)
            out, err = server.communicate(timeout=30)
        finally:
            server.kill()
    owner = re.fullmatch(r"the results, for you alone: http://127\.0\.0\.1:\d+/\?token=([\w-]{43})\n", second)
    assert out == "" and owner is not None and owner[1] not in (found[2], session) and owner[1] not in err
    assert "GET / 200" in err and "POST /enter 303" in err and "POST /api/lease 200" in err
    assert found[2] not in err and session not in err and csrf["X-CSRF-Token"] not in err and "token" not in err
    assert "Ada" not in err and "Grace" not in err


def test_open_servers_ask_for_no_token(study: HumanStudy) -> None:
    client: Any = make_client(app_of(study, token=None))
    assert client.get("/").status_code == 303 and client.get("/").status_code == 200
    assert client.post("/api/lease", json={}).status_code == 403, "other sites are kept out all the same"
