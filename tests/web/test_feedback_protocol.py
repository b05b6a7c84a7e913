"""Rounds that a study's protocol adds, its end, and whom the search trusts."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranking_study
import sqlalchemy as sa
from ranking_client import app_of, entered, exact_answer
from ranking_study import make_study, optimizer

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.errors import ConfigError, StudyError
from rlopt.feedback import rounds, schema
from rlopt.feedback.agreement import PRIOR, between_raters, reliabilities, wilson
from rlopt.feedback.protocol import StudyProtocol, read_protocol
from rlopt.feedback.results import progress, study_activity, study_duels, study_raters
from rlopt.feedback.rounds import RaterSession, ShownRound
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy, replay

PROTOCOL = StudyProtocol(repeat_every=4, duel_every=5, training_rounds=1, rounds_per_rater=20, completion_code="RL-1")


def search() -> ParallelSearch:
    return ParallelSearch(optimizer(), 1, 3)


def rank(session: RaterSession, rater: int, shown: ShownRound, key: str, rng: np.random.Generator | None) -> None:
    """Answers exactly, or at random with a generator."""
    ids = [clip.id for clip in shown.clips]
    values = ranking_study.values_of(session.store, ids)
    if rng is not None or shown.kind == "duel":  # the clip of a point has no hidden return
        values = dict(zip(ids, (rng or np.random.default_rng(0)).permutation(len(ids)).tolist(), strict=True))
    tiers, unranked = ranking_study.order_by_value(values, shown.k)
    session.answer(rater, shown.id, key, tiers, unranked)


def used_up(study: HumanStudy) -> None:
    while study.step() is not None:
        pass


def test_the_protocol_adds_rounds_ends_and_tells_whom_to_trust(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whom chance makes agree depends on the order in which clips are shown: 20 rounds are few.
    monkeypatch.setattr(rounds, "_random", random.Random(0))
    study = make_study(store, search=search(), deadline_seconds=0.0)
    honest, spammer = (store.add_rater(study.study, name).id for name in "ab")
    session, rng = RaterSession(store, study.study, protocol=PROTOCOL), np.random.default_rng(3)
    kinds: dict[int, list[str]] = {honest: [], spammer: []}
    for number in range(20):
        for rater in (honest, spammer):
            used_up(study)
            shown = session.lease(rater)
            assert shown is not None
            kinds[rater].append(shown.kind)
            rank(session, rater, shown, f"{number}", rng if rater == spammer else None)
    used_up(study)
    for rater in kinds:
        assert [number for number, kind in enumerate(kinds[rater]) if kind == "duel"] == [4, 9, 14, 19]
        assert kinds[rater][7] == kinds[rater][11] == "check", "every fourth is a check"
        assert session.lease(rater) is None, "20 rounds are all that is asked"
        told = progress(store, study.study, rater, protocol=PROTOCOL)
        assert told["state"] == "finished" and told["completion"] == {"code": "RL-1", "url": ""}
        assert told["rounds_answered"] == told["rounds_asked"] == 20
    assert kinds[spammer][0] == "training" and "training" not in kinds[honest], "nobody had answered before"
    with store.database.read() as connection:
        of_search = sa.select(schema.round_.c.status).where(schema.round_.c.for_rater.is_(None))
        consumed = list(connection.execute(of_search).scalars()).count("consumed")
    assert consumed == sum(kind in ("gradient", "line_search") for each in kinds.values() for kind in each)
    assert replay(store, study.study, search()) == consumed, "with the trust of then"
    rows, matrix = study_raters(store, study.study)
    assert rows[0]["trust"] > 0.6 > 0.4 > rows[1]["trust"] and rows[0]["same"] == 1.0 > rows[1]["same"]
    assert matrix[0][1] == matrix[1][0] and matrix[0][0] is None
    assert sum(duel["rounds"] for duel in study_duels(store, study.study)) == 8
    assert study_activity(store, study.study)["answers"] == 40


def test_a_check_comes_from_an_expert_and_is_not_told_from_other_rounds(store: StudyStore) -> None:
    study = make_study(store, search=search(), deadline_seconds=0.0)
    expert, other = (store.add_rater(study.study, name) for name in "ab")
    store.set_expert(study.study, expert.public_id[:12])
    session = RaterSession(store, study.study, protocol=StudyProtocol(repeat_every=2))
    used_up(study)
    seen = session.lease(expert.id)
    assert seen is not None
    rank(session, expert.id, seen, "a", None)
    used_up(study)
    for number in range(2):
        shown = session.lease(other.id)
        assert shown is not None
        rank(session, other.id, shown, f"{number}", None)
    assert shown.kind == "check"
    values = [ranking_study.values_of(store, [clip.id for clip in each.clips]).values() for each in (seen, shown)]
    assert sorted(values[0]) == sorted(values[1]), "the expert's clips"
    assert not {clip.id for clip in seen.clips} & {clip.id for clip in shown.clips}, "under other names"
    from rlopt.feedback.server.rater_view import RaterView

    assert RaterView(store, study.study, protocol=session.protocol).round_json(shown)["kind"] == "round"
    with pytest.raises(StudyError, match="0 raters of study 'grey' begin with"):
        store.set_expert(study.study, "")


def trained(study: HumanStudy) -> tuple[Any, dict[str, str], list[str]]:
    """A browser that comes once an expert has ranked, and the ids of its first clips by their values."""
    expert = study.store.add_rater(study.study, "a")
    study.store.set_expert(study.study, expert.public_id)
    session = RaterSession(study.store, study.study)
    used_up(study)
    shown = session.lease(expert.id)
    assert shown is not None
    rank(session, expert.id, shown, "a", None)
    used_up(study)
    client, headers = entered(app_of(study, protocol=StudyProtocol(training_rounds=2)))
    leased = client.post("/api/lease", json={}, headers=headers).json()["round"]
    assert leased["kind"] == "training"
    values = ranking_study.values_of(study.store, [clip["id"] for clip in leased["clips"]])
    return client, headers | {"round": leased["id"]}, sorted(values, key=values.__getitem__)


def test_a_training_round_tells_how_the_order_agrees_with_the_experts(store: StudyStore) -> None:
    client, headers, best = trained(make_study(store, search=search(), deadline_seconds=0.0))
    place, swapped = f"/api/rounds/{headers.pop('round')}/answer", [best[1], best[0], *best[2:]]
    body = {"key": "1", "tiers": [[clip] for clip in swapped]}
    for _ in range(2):  # sent twice, it is told twice
        told = client.post(place, json=body, headers=headers).json()["training"]
        assert told["order"] == {"tiers": [[clip] for clip in best], "unranked": []}
        assert told["message"].startswith("Your order agrees with the expert's in 5 of 6 pairs of images.")
    assert set(told["posters"]) == set(best)
    assert client.get(told["posters"][best[0]]).status_code == 200
    assert client.post("/api/undo", json={}, headers=headers).status_code == 409, "who knows the order cannot give it"
    shown = client.post("/api/lease", json={}, headers=headers).json()["round"]
    assert shown["kind"] != "training", "the expert has ranked no other"
    answered = exact_answer(store, shown, "2")
    assert client.post(f"/api/rounds/{shown['id']}/answer", json=answered, headers=headers).json()["training"] is None


def test_without_scripts_a_training_round_is_told_too(tmp_path: Path) -> None:
    client, headers, best = trained(make_study(tmp_path, search=search(), deadline_seconds=0.0))
    fields = {"csrf_token": headers["X-CSRF-Token"], "round": headers["round"], "key": "1", "do": "skip"}
    sent = client.post("/form/answer", data=fields, headers={"Origin": headers["Origin"]}, follow_redirects=False)
    page = client.get(sent.headers["location"]).text
    assert "This is the expert&#39;s order." in page and "agrees" not in page and page.count('alt="Image"') == len(best)
    assert "expert" not in client.get("/?trained=" + "0" * 32).text


def test_a_study_is_over_after_its_hours(store_url: str, tmp_path: Path) -> None:
    now = [1000.0]
    store = StudyStore(store_url, media=tmp_path / "media", clock=lambda: now[0])
    study = make_study(store, search=search(), deadline_seconds=0.0)
    rater = store.add_rater(study.study, "s").id
    used_up(study)
    protocol = StudyProtocol(study_hours=2)
    session = RaterSession(store, study.study, protocol=protocol)
    assert session.lease(rater) is not None
    now[0] += 7201
    assert session.lease(rater) is None
    assert progress(store, study.study, rater, protocol=protocol)["state"] == "finished"
    store.close()


def test_accuracy_is_that_of_the_answers() -> None:
    rng = np.random.default_rng(0)
    chances = {1: 0.9, 2: 0.85, 3: 0.8, 4: 0.5, 5: 0.5}
    first, second = (((0,), (1,)), ()), (((1,), (0,)), ())
    draws = rng.random((1000, 5))  # pairs, whose order each rater gives with a chance of his own
    seen = [
        [
            (rater, first if draw < chance else second)
            for (rater, chance), draw in zip(chances.items(), row, strict=True)
        ]
        for row in draws
    ]
    found = reliabilities(seen)
    for rater, chance in chances.items():
        assert abs(found[rater].accuracy - chance) < 0.04
        assert found[rater].pairs == 1000
    unknown = reliabilities([[(7, (((0,), (1,)), ()))]])[7]
    assert unknown.accuracy == PRIOR[0] / sum(PRIOR) and unknown.pairs == 0, "one order tells nothing"
    against = [[(1, (((0,), (1,)), ())), (2, (((1,), (0,)), ()))]] * 50
    assert reliabilities(against, experts=[2])[1].trust == 0 and reliabilities(against, experts=[1])[2].trust == 0


def test_agreement_of_each_two_and_the_interval_of_a_share() -> None:
    one, other, third = (((0,), (1,), (2,)), ()), (((0,), (2,), (1,)), ()), (((2,), (1,), (0,)), ())
    matrix = between_raters([{1: one, 2: other}, {1: one, 3: third}], [1, 2, 3])
    assert matrix == [[None, 2 / 3, 0.0], [2 / 3, None, None], [0.0, None, None]]
    low, high = wilson(8, 10)  # Wilson's interval as tabulated: .490, .943
    assert round(low, 3) == 0.49 and round(high, 3) == 0.943
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-12) and wilson(5, 5)[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeat_evry: 5", "repeat_evry"),
        ("repeat_every: -1", "repeat_every"),
        ("completion_url: javascript:alert(1)", "not a web address"),
        ("completion_url: 'http://['", "not a web address"),
        ("completion_url: 'https://example.org:port/'", "not a web address"),
        ("completion_url: 'https://example.org/a b'", "not a web address"),
        ("{completion_code: A, completion_url: 'https://{code}.org'}", "after the host's name"),
        ("{completion_code: A, completion_url: 'https://example.org/{rater}'}", "after the host's name"),
        ("completion_url: https://example.org/?cc={code}", "give completion_code too"),
        ("- 1", "holds no settings"),
        ("5: 1", "unknown setting '5'"),
        ("completion_code: 7391", "write it in quotes"),
    ],
)
def test_protocols_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_protocol(path)
    path.write_text("consent: Yes please\nrounds_per_rater: 3\n")
    assert read_protocol(path) == StudyProtocol(consent="Yes please", rounds_per_rater=3)
    assert read_protocol(None) == StudyProtocol()


def test_the_code_is_inserted_into_the_address_as_one_value() -> None:
    there = StudyProtocol(completion_code="A&b=/é #", completion_url="https://example.org/done?cc={code}#{code}")
    code = "A%26b%3D%2F%C3%A9%20%23"
    assert there.completion == {"code": "A&b=/é #", "url": f"https://example.org/done?cc={code}#{code}"}
