"""The GPU check: what it writes, how it continues, and that a cut row is tried again; its rows are not run here."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("gpu_check")


def row(check: Any, name: str, code: str, seconds: float = 30.0) -> Any:
    return check.Row(name, "", ("-c", code), seconds)


def call(check: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(folder), *flags])
    with pytest.raises(SystemExit) as end:
        check.main()
    return int(end.value.code or 0)


def test_a_second_call_continues(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, out = tmp_path / "begun", tmp_path / "out"
    note = f"open({str(begun)!r}, 'a').write"
    wait = f"import time, os; time.sleep(0 if os.path.exists('{begun}2') else 60)"
    slow = f"{note}('b'); print('so far', flush=True); {wait}"
    rows = [
        row(check, "first", f"{note}('a'); print('123 steps/s')"),
        row(check, "slow", slow, seconds=1.5),
        row(check, "wrong", f"{note}('c'); raise SystemExit('not equal')"),
    ]
    monkeypatch.setattr(check, "ROWS", tuple(rows))
    assert call(check, monkeypatch, out) == 1
    shown = capsys.readouterr().out
    assert "first: passed" in shown and "slow: cut" in shown and "wrong: failed" in shown
    assert "123 steps/s" in shown and "so far" in shown and "not equal" in shown
    assert json.loads((out / "slow.json").read_text())["status"] == "cut"
    Path(f"{begun}2").touch()
    assert call(check, monkeypatch, out) == 1  # a failure stays one
    assert begun.read_text() == "abcb"
    assert json.loads((out / "slow.json").read_text())["status"] == "passed"
    assert call(check, monkeypatch, out, "--rows", "wrong") == 1
    assert begun.read_text() == "abcbc"


def test_nothing_begins_without_time(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "ROWS", (row(check, "first", "raise SystemExit(3)"),))
    assert call(check, monkeypatch, tmp_path, "--minutes", "0.1") == 0
    assert "| first | - | unmeasured |" in capsys.readouterr().out


def test_every_row_names_what_there_is(check: Any) -> None:
    """Scripts, tests and flags; the first rows are those of correctness."""
    for each in check.ROWS:
        path = each.command[0]
        if path.startswith("scripts/"):
            text = (ROOT / path).read_text()
            if "race_parser" in text:
                text += (ROOT / "scripts" / "contestants.py").read_text()
            flags = [part for part in (*each.command, *each.small) if part.startswith("--")]
            assert all(f'"{flag}"' in text for flag in flags), each.name
        else:
            assert all((ROOT / path).is_file() for path in each.command if path.endswith(".py"))
    assert [each.name for each in check.ROWS[:2]] == ["captured steps", "warp parity"]
    assert len({each.name for each in check.ROWS}) == len(check.ROWS)
