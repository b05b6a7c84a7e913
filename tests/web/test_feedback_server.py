"""The server as the page, a program or a browser without scripts meets it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_client import BASE, TOKEN, app_of, entered, exact_answer, make_client, press_begin
from ranking_study import answer_all, make_study, optimizer, told_exactly, values_of

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.errors import StudyError
from rlopt.feedback.clips import Clip, write_clip
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.study import HumanStudy


@pytest.fixture
def study(tmp_path: Path) -> HumanStudy:
    made = make_study(tmp_path, deadline_seconds=0.0, instructions="Prefer <b>darker</b> images.")
    assert made.step() is None
    return made


def test_the_whole_contract_round_by_round(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    described = client.get("/api/study").json()
    assert (described["name"], described["media"]) == ("grey", "image")
    assert described["instructions"] == "Prefer <b>darker</b> images." and described["progress"]["state"] == "open"
    for number in range(4):
        leased = client.post("/api/lease", json={}, headers=headers).json()
        shown = leased["round"]
        assert set(shown) == {"id", "kind", "k", "lease_seconds", "clips", "answer"}
        assert set(shown["clips"][0]) == {"id", "url", "poster", "fps", "frames", "width", "height"}
        assert (shown["kind"], shown["k"]) == (("gradient", 4), ("line_search", 1))[number % 2]
        assert client.post("/api/lease", json={}, headers=headers).json() == leased
        assert client.get("/api/study").json()["progress"] == leased["progress"]
        place = f"/api/rounds/{shown['id']}"
        assert client.post(f"{place}/renew", json={}, headers=headers).json() == {"lease_seconds": 120}
        body = exact_answer(study.store, shown, f"key {number}")
        accepted = client.post(f"{place}/answer", json=body, headers=headers).json()
        assert accepted["accepted"] and accepted["revision"] == 1
        assert accepted["progress"]["rounds_answered"] == number + 1 and accepted["progress"]["can_undo"]
        assert client.post(f"{place}/answer", json=body, headers=headers).json()["revision"] == 1
        undone = client.post("/api/undo", json={}, headers=headers).json()
        assert undone["round"]["answer"] == {"tiers": body["tiers"], "unranked": body["unranked"]}
        again = client.post(f"{place}/answer", json={**body, "key": f"again {number}"}, headers=headers).json()
        assert again["revision"] == 2
        waiting = client.post("/api/lease", json={}, headers=headers).json()
        assert waiting["round"] is None and waiting["progress"]["state"] == "rendering"
        assert study.step() is not None and study.step() is None
    results = client.get("/api/results").json()
    assert [row["iteration"] for row in results["rounds"]] == [0, 1, 2, 3]
    assert set(results["rounds"][0]) == {
        "iteration", "kind", "step_norm", "distance_from_start", "stayed", "answers", "seconds",
    }  # fmt: skip
    assert results["agreement"] == {"rounds": 0, "raters": 1, "pairwise": None, "kendall_tau": None, "interval": None}
    assert client.get(results["start"]["url"]).status_code == client.get(results["now"]["poster"]).status_code == 200
    np.testing.assert_array_equal(study.optimizer.point, told_exactly(4).point)


def test_an_answer_brings_the_next_round_and_is_stored_with_its_lease_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ParallelSearch(optimizer(), 3, 0)
    study = make_study(tmp_path, search=search, deadline_seconds=0.0)
    assert study.step() is None
    client, headers = entered(app_of(study))
    shown = client.post("/api/lease", json={}, headers=headers).json()["round"]
    place, body = f"/api/rounds/{shown['id']}/answer", {**exact_answer(study.store, shown, "a"), "next": True}
    with monkeypatch.context() as patch:
        patch.setattr(RaterSession, "lease", _away)
        assert client.post(place, json=body, headers=headers).status_code == 503
    assert client.get("/api/study").json()["progress"]["rounds_answered"] == 0, "nothing was acknowledged"
    first = client.post(place, json=body, headers=headers).json()
    assert first["round"]["id"] != shown["id"] and first["progress"]["rounds_answered"] == 1
    assert client.post("/api/lease", json={}, headers=headers).json()["round"] == first["round"]
    assert client.post(place, json=body, headers=headers).json() == first, "sent again, it changes nothing"
    place = f"/api/rounds/{first['round']['id']}/skip"
    second = client.post(place, json={"key": "b", "next": True}, headers=headers).json()
    last = client.post(f"/api/rounds/{second['round']['id']}/skip", json={"key": "c"}, headers=headers).json()
    assert last["accepted"] and last["round"] is None, "who does not ask gets none"


def _away(*arguments: object) -> None:
    raise StudyError("the database is away")


def test_lost_consumed_and_malformed_answers_are_told(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    other, _ = entered(app := app_of(study))
    shown = client.post("/api/lease", json={}, headers=headers).json()["round"]
    place = f"/api/rounds/{shown['id']}"
    good = exact_answer(study.store, shown, "a")
    for body, said in (
        ({**good, "tiers": good["tiers"][:-1]}, "3 of 4"),
        ({**good, "key": ""}, "key"),
        ({**good, "seconds": -1}, "seconds"),
        ({**good, "tiers": "all"}, "tiers"),
        ({**good, "tiers": [[0], [1], [2], [3]]}, "tiers"),
        ({**good, "abstain": "no"}, "abstain"),
        ({**good, "more": 1}, "more"),
        ([], ""),
    ):
        answer = client.post(f"{place}/answer", json=body, headers=headers)
        assert answer.status_code == 400 and said in answer.json()["error"] and "\n" not in answer.json()["error"]
    broken = client.post(f"{place}/answer", content="{", headers={**headers, "Content-Type": "application/json"})
    assert broken.status_code == 400 and broken.json()["error"]
    deep = client.post(f"{place}/answer", content="[" * 60_000, headers={**headers, "Content-Type": "application/json"})
    assert deep.status_code == 400
    assert client.post("/api/undo", json={}, headers=headers).status_code == 409
    assert client.post(f"{place}/answer", json=good, headers=headers).status_code == 200
    assert study.step() is not None
    late = client.post(f"{place}/answer", json={**good, "key": "b"}, headers=headers)
    assert late.status_code == 409 and "gone on" in late.json()["error"]
    assert client.post(f"{place}/renew", json={}, headers=headers).status_code == 409
    assert client.post("/api/rounds/nothing/answer", json=good, headers=headers).status_code == 409
    newcomer, own = entered(app)
    assert newcomer.post(f"{place}/answer", json={**good, "key": "c"}, headers=own).status_code == 409
    assert other.get("/api/nothing").json() == {"error": "Not Found"}


def test_skip_is_accepted_and_undone(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    shown = client.post("/api/lease", json={}, headers=headers).json()["round"]
    skipped = client.post(f"/api/rounds/{shown['id']}/skip", json={"key": "s"}, headers=headers).json()
    assert skipped["accepted"] and skipped["progress"]["can_undo"]
    undone = client.post("/api/undo", json={}, headers=headers).json()["round"]
    assert undone["id"] == shown["id"] and undone["answer"] is None


def test_two_tabs_are_one_rater_and_two_browsers_are_two(tmp_path: Path) -> None:
    study = make_study(tmp_path, annotators=2, deadline_seconds=0.0)
    study.step()
    app = app_of(study)
    one, headers = entered(app)
    two, others = entered(app)
    first = one.post("/api/lease", json={}, headers=headers).json()["round"]
    assert one.get("/", params={"token": TOKEN}).status_code == 303, "the link opened in a second tab"
    assert "set-cookie" not in press_begin(one).headers, "and pressed, where its cookie was withheld"
    assert one.post("/api/lease", json={}, headers=headers).json()["round"] == first
    second = two.post("/api/lease", json={}, headers=others).json()["round"]
    assert second["id"] == first["id"]
    for client, own, shown in ((one, headers, first), (two, others, second)):
        body = exact_answer(study.store, shown, "same key")
        assert client.post(f"/api/rounds/{shown['id']}/answer", json=body, headers=own).status_code == 200
    assert study.step() is not None
    assert study.optimizer.digest() == told_exactly(1, annotators=2).digest()
    agreement = one.get("/api/results").json()["agreement"]
    assert agreement == {"rounds": 1, "raters": 2, "pairwise": 1.0, "kendall_tau": 1.0, "interval": None}
    raters = one.get("/api/results").json()["raters"]
    trust = {rater.pop("trust") for rater in raters}
    assert len(trust) == 1 and 1 / 3 < trust.pop() < 1, "who agree are trusted alike, and more than before"
    same = {"rounds": 1, "pairwise": 1.0, "repeats": 0, "same": None}
    assert raters == [{"name": "rater 1", **same}, {"name": "rater 2", **same}]


def fields_of(page: str) -> dict[str, str]:
    """The inputs of the plain form."""
    inputs = re.findall(r"<input [^>]*>", page)
    named = (dict(re.findall(r'(\w+)="([^"]*)"', text)) for text in inputs)
    return {given["name"]: given.get("value", "") for given in named if "name" in given}


def test_everything_works_without_scripts(study: HumanStudy) -> None:
    client, headers = entered(app_of(study))
    origin = {"Origin": BASE}
    page = client.get("/").text
    assert "Prefer &lt;b&gt;darker&lt;/b&gt; images." in page and "<script>" not in page and "style=" not in page
    fields = fields_of(page)
    places = [name for name in fields if name.startswith("place-")]
    assert len(places) == 4 and fields["csrf_token"] == headers["X-CSRF-Token"]
    values = values_of(study.store, [name.removeprefix("place-") for name in places])
    best = sorted(places, key=lambda name: values[name.removeprefix("place-")])
    tied = {best[0]: "1", best[1]: "7", best[2]: "7", best[3]: ""}
    sent = client.post("/form/answer", data={**fields, **tied, "do": "submit"}, headers=origin)
    assert (sent.status_code, sent.headers["location"]) == (303, "/")
    done = client.get("/").text
    assert "The trainer is working" in done and "Undo the last answer" in done and "place-" not in done
    again = client.post("/form/answer", data={**fields_of(done), "do": "undo"}, headers=origin)
    assert again.status_code == 303
    kept = fields_of(client.get("/").text)
    assert [kept[name] for name in best] == ["1", "2", "2", ""], "what was said before the undo is still there"
    for wrong in ("0", "-1", "1.5", "first", "²"):
        refused = client.post("/form/answer", data={**kept, best[0]: wrong, "do": "submit"}, headers=origin)
        assert refused.status_code == 400 and "whole number" in refused.text and 'role="alert"' in refused.text
    empty = dict.fromkeys(best, "")
    nothing = client.post("/form/answer", data={**kept, **empty, "do": "submit"}, headers=origin)
    assert nothing.status_code == 400 and "at least one" in nothing.text
    assert client.post("/form/answer", data={**kept, "do": "dance"}, headers=origin).status_code == 400
    assert client.post("/form/answer", content=b"a=1&a=2", headers=origin).status_code == 400
    skipped = client.post("/form/answer", data={**kept, "do": "skip"}, headers=origin)
    assert skipped.status_code == 303 and study.step() is not None
    assert client.post("/form/answer", data={**kept, "do": "undo"}, headers=origin).status_code == 409
    assert client.get("/results").status_code == 200


def test_the_results_page_shows_what_the_interface_says(study: HumanStudy) -> None:
    client, _ = entered(app_of(study))
    assert "Results" in client.get("/results").text
    rater = study.store.add_rater(study.study, "another").id
    for number in range(2):
        answer_all(study, [rater], f"{number}")
        assert study.step() is not None and study.step() is None
    page, told = client.get("/results").text, client.get("/api/results").json()
    assert (
        f"{told['rounds'][1]['step_norm']:.3g}" in page and told["now"]["url"] in page and told["start"]["url"] in page
    )


def film(query: Any, folder: Path) -> list[Clip]:
    """Two short videos of odd size."""
    images = np.random.default_rng(0).integers(0, 255, (12, 33, 47, 3), np.uint8)
    return [write_clip(folder / f"{slot}.mp4", images, 30) for slot in range(len(query.candidates))]


@pytest.fixture
def video(tmp_path: Path) -> tuple[Any, str, bytes]:
    """A browser, the address of a video, and its bytes."""
    study = make_study(tmp_path, search=optimizer(m=2, k=2), media="video", deadline_seconds=0.0)
    study.render = film
    study.step()
    client, headers = entered(app_of(study))
    clip = client.post("/api/lease", json={}, headers=headers).json()["round"]["clips"][0]
    assert (clip["width"], clip["height"], clip["frames"], clip["fps"]) == (48, 34, 30, 30.0)
    poster = client.get(clip["poster"])
    assert poster.headers["content-type"] == "image/jpeg" and poster.content.startswith(b"\xff\xd8\xff")
    path = next((tmp_path / "media").glob("*/round-*/0.mp4"))
    return client, clip["url"], path.read_bytes()


def test_videos_are_sent_in_ranges(video: tuple[Any, str, bytes]) -> None:
    """RFC 9110, section 14: without ranges a browser cannot seek."""
    client, url, data = video
    whole = client.get(url)
    assert whole.status_code == 200 and whole.content == data and whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4" and whole.headers["content-length"] == str(len(data))
    assert whole.headers["cache-control"].startswith("private")
    size = len(data)
    for header, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=5-99", 5, 99),
        (f"bytes=7-{size + 50}", 7, size - 1),
        ("bytes=100-", 100, size - 1),
        ("bytes=-10", size - 10, size - 1),
        (f"bytes=-{size + 5}", 0, size - 1),
    ):
        part = client.get(url, headers={"Range": header})
        assert part.status_code == 206 and part.content == data[first : last + 1], header
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.headers["content-length"] == str(last - first + 1)
    for header in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        beyond = client.get(url, headers={"Range": header})
        assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{size}", header
    for header in ("bytes=9-5", "bytes=-", "bytes=a-b"):
        assert client.get(url, headers={"Range": header}).status_code == 400, f"{header} is malformed"
    assert client.get(url, headers={"Range": "lines=1-2"}).content == data, "an unknown unit is ignored"
    parts = client.get(url, headers={"Range": "bytes=0-1,3-4"})
    assert parts.status_code == 206 and parts.headers["content-type"].startswith("multipart/byteranges; boundary=")
    boundary = parts.headers["content-type"].partition("boundary=")[2].encode()
    assert int(parts.headers["content-length"]) == len(parts.content)
    pieces = [piece.partition(b"\r\n\r\n") for piece in parts.content.split(b"--" + boundary)[1:-1]]
    for (head, _, body), first in zip(pieces, (0, 3), strict=True):
        assert f"bytes {first}-{first + 1}/{size}".encode() in head and body == data[first : first + 2] + b"\r\n"
    tag = whole.headers["etag"]
    assert client.get(url, headers={"Range": "bytes=0-3", "If-Range": tag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=0-3", "If-Range": '"old"'}).status_code == 200


def test_a_browser_without_h264_gets_vp9(video: tuple[Any, str, bytes]) -> None:
    client, url, _ = video
    first = client.get(f"{url}.webm")
    assert first.status_code == 200 and first.headers["content-type"] == "video/webm"
    import io

    import imageio.v3 as imageio

    assert imageio.immeta(io.BytesIO(first.content), plugin="FFMPEG", extension=".webm")["codec"] == "vp9"
    part = client.get(f"{url}.webm", headers={"Range": "bytes=0-3"})
    assert part.status_code == 206 and part.content == b"\x1a\x45\xdf\xa3", "Matroska's first bytes"
    assert client.get(f"{url}.webm.webm").status_code == 404 and client.get("/media/x.webm").status_code == 404


def test_videos_play_in_every_browser(video: tuple[Any, str, bytes]) -> None:
    _, _, data = video
    assert data.index(b"moov") < data.index(b"mdat"), "the index is in front: playing starts before all is there"
    assert b"avc1" in data, "H.264"
    # AVC configuration record: the profile is 100 (high) at most, so 4:2:0 with 8 bits.
    record = data.index(b"avcC") + 4
    assert data[record] == 1 and data[record + 1] in (66, 77, 100)


def test_links_from_other_pages_can_be_followed(study: HumanStudy) -> None:
    """A strict cookie is not sent after a link from elsewhere; the page then leads on by a link of its own."""
    client = make_client(app_of(study))
    denied = client.get("/")
    assert denied.status_code == 401 and '<a href="/">' in denied.text
