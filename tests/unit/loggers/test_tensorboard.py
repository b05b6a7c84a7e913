"""TensorBoard shows the events of a continued run in the order of their steps, whatever the clock says."""

from pathlib import Path

import pytest

from rlopt.loggers.writers import TensorBoardLog


def write(folder: Path, values: dict[int, float], resumed_at: int | None = None) -> None:
    log = TensorBoardLog(folder, resumed_at)
    for step, value in values.items():
        log.write({"return": value}, {"return": ()}, step)
    log.close()


def shown(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("return")]


@pytest.mark.parametrize("seconds", [0, -1, -7200, 5], ids=["same second", "a second back", "hours back", "later"])
def test_a_continued_run_is_read_after_what_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    # The checkpoint is of step 20; the events of 30 and 40 were written before the run was killed.
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    monkeypatch.setattr("os.getpid", lambda: 9)  # as text after the 10 of the process that continues
    write(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0, 40: 4.0})
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0 + seconds)
    monkeypatch.setattr("os.getpid", lambda: 10)
    write(tmp_path, {30: 3.5, 40: 4.5}, resumed_at=20)
    write(tmp_path, {40: 4.25}, resumed_at=30)
    assert shown(tmp_path) == [(10, 1.0), (20, 2.0), (30, 3.5), (40, 4.25)]


def test_the_clock_of_the_package_is_put_back(tmp_path: Path) -> None:
    import time

    from tensorboard.summary.writer import event_file_writer

    write(tmp_path, {10: 1.0})
    write(tmp_path, {20: 2.0}, resumed_at=10)
    assert event_file_writer.time is time
