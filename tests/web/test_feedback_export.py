"""A study as text, and back."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ranking_study import make_study, objective, optimizer, values_of

from rlopt.errors import StudyError
from rlopt.feedback import schema
from rlopt.feedback.export import export
from rlopt.feedback.importing import import_study
from rlopt.feedback.rounds import RaterSession
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy, replay


@pytest.fixture
def study(store: StudyStore) -> HumanStudy:
    """Two raters: a full order, a tie and unranked clips, a skipped round after an undo; a fourth round is open."""
    another = make_study(store, "another", deadline_seconds=0.0)
    assert another.step() is None
    study = make_study(store, annotators=2, deadline_seconds=0.0, instructions="Ünïcode", config={"m": 4})
    session = RaterSession(store, study.study)
    raters = [store.add_rater(study.study, f"session {name}", name).id for name in ("Ada", "Bo")]
    for number in range(3):
        assert study.step() is None
        for one in raters:
            shown = session.lease(one)
            assert shown is not None
            values = values_of(store, [clip.id for clip in shown.clips])
            a, b, c, d = sorted(values, key=values.__getitem__)
            key = f"{number} {one}"
            if number == 0:
                session.answer(one, shown.id, key, [[a], [b], [c], [d]], seconds=1)
            elif number == 1:
                session.answer(one, shown.id, key, [[a], [b, c]], [d], seconds=2.5)
            else:
                session.answer(one, shown.id, key, [[d], [c], [b], [a]])
                session.undo(one)
                session.answer(one, shown.id, f"{key} again", abstain=True)
        assert study.step() is not None
    assert study.step() is None and session.lease(raters[0]) is not None
    return study


def text_of(study: HumanStudy, form: str = "jsonl", **settings: Any) -> str:
    out = io.StringIO()
    count = export(study.store, study.store.study(study.study.name), form, out, **settings)
    assert count == len(out.getvalue().splitlines())
    return out.getvalue()


def test_what_is_exported_comes_back_the_same(study: HumanStudy, tmp_path: Path) -> None:
    text = text_of(study)
    new = StudyStore(f"sqlite:///{tmp_path}/new/study.db")
    back = import_study(new, text.splitlines(), clips=study.store.media_root)
    again = io.StringIO()
    export(new, back, "jsonl", again)
    assert again.getvalue() == text
    assert replay(new, back, optimizer()) == 3
    for path in (tmp_path / "new" / "media").rglob("*.png"):
        assert path.read_bytes() == (study.store.media_root / path.relative_to(new.media_root)).read_bytes()
    assert len(list((tmp_path / "new" / "media").rglob("*.png"))) == 4 * 4 + 1
    goes_on = make_study(new, annotators=2, deadline_seconds=0.0)
    assert goes_on.optimizer.digest() == make_study(study.store, annotators=2).optimizer.digest()


def test_an_export_holds_no_session_and_no_name_unless_asked(study: HumanStudy) -> None:
    text = text_of(study)
    with study.store.database.read() as connection:
        digests = connection.execute(sa.select(schema.rater.c.session_digest)).scalars().all()
    assert not any(word in text for word in (*digests, "session ", "Ada"))
    assert "Ada" in text_of(study, names=True)
    assert '"another"' not in text, "the other study of the database stays there"


def test_pairs_are_the_comparisons_that_the_answers_make(study: HumanStudy) -> None:
    lines = [json.loads(line) for line in text_of(study, "pairs").splitlines()]
    # Round 0: 6 pairs in order; round 1: 6 pairs, 1 of them a tie; round 2: no opinion. Two raters each.
    assert len(lines) == 2 * 6 + 2 * 6
    assert [line["preference"] for line in lines].count(0.5) == 2
    with study.store.database.read() as connection:
        columns = (schema.clip.c.path, schema.clip.c.hidden_return)
        returns = dict(connection.execute(sa.select(*columns)).all())
    for line in lines:
        better = returns[line["first"]["clip"]] > returns[line["second"]["clip"]]
        assert line["preference"] in (float(better), 0.5) and line["first"]["slot"] < line["second"]["slot"]
    assert "return" not in lines[0]


def test_pairs_leave_out_what_was_not_compared(store: StudyStore) -> None:
    study = make_study(store, deadline_seconds=0.0)
    study.step()
    session, one = RaterSession(store, study.study), store.add_rater(study.study, "s").id
    shown = session.lease(one)
    assert shown is not None
    a, b, c, d = (clip.id for clip in shown.clips)
    session.answer(one, shown.id, "k", [[a]], [b, c, d])
    assert len(text_of(study, "pairs").splitlines()) == 3


def test_the_table_has_a_row_for_every_clip_of_every_answer(study: HumanStudy) -> None:
    rows = list(csv.DictReader(io.StringIO(text_of(study, "csv"))))
    assert len(rows) == 3 * 2 * 4
    first = [row for row in rows if row["iteration"] == "0"][:4]
    fresh = optimizer().ask().candidates
    assert sorted(first, key=lambda row: int(row["place"])) == [first[slot] for slot in objective(fresh).argsort()]
    second = [row["place"] for row in rows if row["iteration"] == "1"]
    assert sorted(second) == ["", "", "1", "1", "2", "2", "2", "2"]
    assert {(row["abstain"], row["place"], row["revision"]) for row in rows if row["iteration"] == "2"} == {
        ("1", "", "2")
    }


def damaged(lines: list[str], what: str, change: Any) -> list[str]:
    """The lines with ``change`` made to the first of a type."""
    found = next(n for n, line in enumerate(lines) if f'"type":"{what}"' in line)
    line = json.loads(lines[found])
    change(line)
    return [*lines[:found], json.dumps(line), *lines[found + 1 :]]


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("rlopt-study", lambda line: line.update(version=2), "rlopt rank export"),
        ("study", lambda line: line.update(annotators="2"), "annotators"),
        ("study", lambda line: line.update(annotators=0), "malformed"),
        ("study", lambda line: line.update(name="x" * 201), "too long"),
        ("study", lambda line: line.pop("media"), "exactly"),
        ("study", lambda line: line.update(more=1), "exactly"),
        ("rater", lambda line: line.update(id=2), "twice"),
        ("rater", lambda line: line.update(public_id="../../etc"), "not a random id"),
        ("round", lambda line: line.update(study_id=9), "leads to no study"),
        ("round", lambda line: line.update(params="AAAA"), "cannot be read"),
        ("round", lambda line: line.update(params="not base64"), "base64"),
        ("round", lambda line: line.update(status="won"), "malformed"),
        ("round", lambda line: line.update(m=True), "not int"),
        ("round", lambda line: line.update(m=2**40), "out of range"),
        ("round", lambda line: line.update(digest_before="0"), "not a digest"),
        ("clip", lambda line: line.update(path="../../outside.png"), "outside its folder"),
        ("clip", lambda line: line.update(path="/etc/passwd"), "outside its folder"),
        ("clip", lambda line: line.update(poster="a/b.html"), "outside its folder"),
        ("answer", lambda line: line.update(tiers="[[0],[1],[2],[2]]"), "answer that is none"),
        ("answer", lambda line: line.update(tiers="[[0]"), "answer that is none"),
        ("answer", lambda line: line.update(key=None), "missing"),
        ("candidate", lambda line: line.update(clip_id=10_000), "leads to no clip"),
        ("event", lambda line: line.update(type="study"), "comes too late"),
        ("event", lambda line: line.update(type="pickle"), "no type"),
    ],
)
def test_malformed_files_are_refused_whole(tmp_path: Path, what: str, change: Any, said: str) -> None:
    source = make_study(tmp_path / "source", deadline_seconds=0.0)
    source.step()
    session, one = RaterSession(source.store, source.study), source.store.add_rater(source.study, "s").id
    source.store.add_rater(source.study, "t")
    shown = session.lease(one)
    assert shown is not None
    session.answer(one, shown.id, "k", [[clip.id] for clip in shown.clips])
    lines = text_of(source).splitlines()
    new = StudyStore(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(StudyError, match=said):
        import_study(new, damaged(lines, what, change))
    assert new.studies() == [], "nothing of it is left"
    for wrong in ([], ["{}"], lines[:1], [lines[1], *lines], ["\0"], ["[" * 100_000]):
        with pytest.raises(StudyError):
            import_study(new, wrong)
    assert new.studies() == []


def test_a_file_that_was_cut_off_is_refused(study: HumanStudy, tmp_path: Path) -> None:
    lines = text_of(study).splitlines()
    new = StudyStore(f"sqlite:///{tmp_path}/new.db")
    for kept in range(2, len(lines)):
        with pytest.raises(StudyError, match="not whole"):
            import_study(new, lines[:kept])
    assert new.studies() == []


def test_a_full_disk_is_told_and_nothing_is_left(
    study: HumanStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*streams: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlopt.feedback.importing.shutil.copyfileobj", full)
    new = StudyStore(f"sqlite:///{tmp_path}/new/study.db")
    with pytest.raises(StudyError, match="No space left"):
        import_study(new, text_of(study).splitlines(), clips=study.store.media_root)
    assert new.studies() == []
    assert not [path for path in new.media_root.rglob("*") if path.is_file()]


def test_a_study_is_imported_once_and_its_clips_are_compared(study: HumanStudy, tmp_path: Path) -> None:
    lines = text_of(study).splitlines()
    with pytest.raises(StudyError, match="already: give another --name"):
        import_study(study.store, lines)
    with pytest.raises(StudyError, match="it is here already"):
        import_study(study.store, lines, name="twice")
    new = StudyStore(f"sqlite:///{tmp_path}/new/study.db")
    altered = next(study.store.media_root.rglob("*round-0*/2.png"))
    altered.write_bytes(b"another image")
    with pytest.raises(StudyError, match="not the one that was exported"):
        import_study(new, lines, clips=study.store.media_root)
    altered.unlink()
    with pytest.raises(StudyError, match="cannot be read"):
        import_study(new, lines, clips=study.store.media_root)
    assert new.studies() == []
