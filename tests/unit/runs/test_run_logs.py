"""CSV logs that a resumed run continues exactly, durations, and the bookkeeping of intervals."""

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlopt.console.progress import Progress, duration, waiting
from rlopt.console.signals import StopSignals
from rlopt.loggers.writers import CsvLog, ProgressCsv
from rlopt.runs.boundary import crossed


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_new_key_becomes_a_column_that_is_empty_before(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv", ["step"])
    log.append({"step": 1, "b": 0.5})
    log.append({"step": 2, "c": 1, "a": "x,y"})
    log.append({"step": 3, "b": None})
    log.close()
    assert rows(log.path) == [["step", "b", "a", "c"], ["1", "0.5", "", ""], ["2", "", "x,y", "1"], ["3", "", "", ""]]


@pytest.mark.parametrize("torn", ["", "4,0.2", "4,0.25,9\n5,1"])
def test_continuing_drops_rows_and_columns_written_after_the_checkpoint(tmp_path: Path, torn: str) -> None:
    log = CsvLog(tmp_path / "a.csv", ["step"])
    log.append({"step": 1, "b": 0.125})
    log.append({"step": 2, "b": 0.25})
    position = log.position()
    log.flush()
    expected = log.path.read_bytes()
    log.append({"step": 3, "b": 0.5, "later": 7})
    log.close()
    with open(log.path, "a") as file:
        file.write(torn)
    continued = CsvLog(log.path, ["step"], position)
    continued.close()
    assert log.path.read_bytes() == expected
    assert continued.position() == position and continued.missing_rows == 0


def test_rows_that_the_disk_lost_are_counted(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv", ["step"])
    log.append({"step": 1})
    log.close()
    continued = CsvLog(log.path, ["step"], {"rows": 3, "columns": ["step"]})
    continued.close()
    assert continued.missing_rows == 2 and rows(log.path) == [["step"], ["1"]]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (np.float32(0.1), "0.10000000149011612"),  # the float64 nearest to float32(0.1), as a checkpoint gives it back
        (0.1, "0.1"),
        (np.int64(7), "7"),
        (True, "True"),
        (torch.tensor(2.5), "2.5"),
        (np.array([3.0]), "3.0"),
        (float("inf"), "inf"),
        ("text", "text"),
    ],
)
def test_numbers_are_written_the_same_before_and_after_a_checkpoint(tmp_path: Path, value: Any, cell: str) -> None:
    log = CsvLog(tmp_path / "a.csv", ["value"])
    log.append({"value": value})
    log.close()
    assert rows(log.path)[1] == [cell]


def test_progress_writer_leaves_out_histograms_and_excluded_keys(tmp_path: Path) -> None:
    writer = ProgressCsv(tmp_path / "progress.csv")
    values = {"loss": 1.0, "hidden": 2.0, "histogram": np.zeros(3)}
    writer.write(values, {"loss": ("",), "hidden": ("csv",), "histogram": ("",)}, step=10)
    writer.close()
    assert rows(tmp_path / "progress.csv") == [["step", "loss"], ["10", "1.0"]]


@pytest.mark.parametrize(
    ("every", "previous", "step", "expected"),
    [
        (10, 0, 9, False),
        (10, 0, 10, True),
        (10, 9, 10, True),
        (10, 10, 19, False),
        (10, 5, 35, True),
        (10, 10, 10, False),
        (0, 0, 10**6, False),
    ],
)
def test_crossed(every: int, previous: int, step: int, expected: bool) -> None:
    assert crossed(every, previous, step) is expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (60, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (float("inf"), "?")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_line_counts_only_this_process_in_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("rlopt.console.progress.time.monotonic", lambda: next(clock))
    progress = Progress(total=10_000, start=4_000)
    progress.step = 5_000
    # 1,000 steps in 10 s; the other 5,000 take 50 s.
    assert progress.line(1.25) == "step 5,000 of 10,000 (50 %), 100 env steps/s, mean return 1.2, 50s left"


def test_time_that_is_waited_counts_in_no_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 102.0, 162.0, 170.0, 171.0, 172.0])
    monkeypatch.setattr("rlopt.console.progress.time.monotonic", lambda: next(clock))
    progress = Progress(total=1_000)
    with waiting("compiling"):
        pass
    with waiting("compiling"):
        pass
    progress.step = 110
    # 110 steps in 72 - 60 - 1 s.
    assert progress.line(None) == "step 110 of 1,000 (11 %), 10 env steps/s, no episode has ended, 1m29s left"
    assert capsys.readouterr().out == "compiling\n"
    monkeypatch.undo()
    progress.finish(None)
    with waiting("for nobody"):
        pass
    assert "nobody" not in capsys.readouterr().out


def test_on_a_terminal_there_is_one_bar_and_no_plain_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(total=100)
    progress.update(100, lambda: 2.0)
    progress.say("evaluation done")
    progress.finish(2.0)
    out, err = capsys.readouterr()
    assert out.split() == ["evaluation", "done"]
    assert "100%" in err and "100/100" in err and "left" in err


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside: list[Any] = []

    def body() -> None:
        with StopSignals() as stop:
            inside.extend([signal.getsignal(signal.SIGINT), stop.exit_code])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert inside == [before, 0]


@pytest.mark.parametrize(("inherited", "code"), [(signal.SIG_DFL, 129), (signal.SIG_IGN, 0)])
def test_a_lost_terminal_stops_a_run_unless_it_was_started_with_nohup(inherited: Any, code: int) -> None:
    before = signal.signal(signal.SIGHUP, inherited)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.exit_code == code
        assert signal.getsignal(signal.SIGHUP) == inherited
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("first", ["", "import os; os.close(1)"])
def test_training_goes_on_when_nobody_reads_its_lines(first: str) -> None:
    program = f"""
{first}
import sys
from rlopt.console.progress import Progress
progress = Progress(total=10)
for step in range(10):
    progress.say("x" * 100_000)
progress.finish(None)
print("finished", file=sys.stderr)
"""
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "finished\n")


def test_the_bar_moves_between_two_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, done = Terminal(), 250
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr("rlopt.console.progress.DRAW_SECONDS", 0.01)
    progress = Progress(total=1_000)
    progress.watch(lambda: done)
    for _ in range(500):
        if "25%" in shown.getvalue():
            break
        time.sleep(0.01)
    progress.finish(None)
    assert "250/1.00k" in shown.getvalue() and "left" in shown.getvalue()


def test_colour_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlopt.console.progress import marked, painted

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert painted("text", "red", io.StringIO()) == "text" and marked("warning: x") == "warning: x"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert painted("text", "red", io.StringIO()) == "\x1b[1;31mtext\x1b[0m"
    assert marked("warning: x") == "\x1b[33mwarning: \x1b[0mx" and marked("a: b") == "a: b"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("text", "red", io.StringIO()) == "text"
