"""The ``rlopt`` command as a user meets it, each in a process of its own."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from rlopt.analysis.compatibility import MIXES
from rlopt.cli import data, demos, hub, preferences, rank
from rlopt.cli.main import main

HEAVY = ("torch", "stable_baselines3", "gymnasium", "mujoco", "matplotlib", "numpy", "fastapi", "sqlalchemy", "uvicorn")
SUBVERBS = {verb.__name__.rpartition(".")[2]: tuple(verb.SUBVERBS) for verb in (data, demos, hub, preferences, rank)}
SMALL_RUN = (
    "train mdpo --env rlopt/RandomTarget-v0 --n-envs 2 --n-steps 16 --net-arch 8 --value_batch_size=16 --device cpu "
    "--total-timesteps 6400 --checkpoint-every 320 --eval-every 1600 --eval-episodes 2 --log-every 640"
)


def rlopt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlopt.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["train", "--help"],
        ["train", "mdpo", "--help"],
        ["--version"],
        ["sweep", "--help"],
        ["tune", "--help"],
        ["compare", "--help"],
        ["evaluate", "--help"],
        ["plot", "--help"],
        ["train", "zo_ranksgd", "--help"],
        *([verb] for verb in SUBVERBS),
        *([verb, subverb, "--help"] for verb, subverbs in SUBVERBS.items() for subverb in subverbs),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "rlopt.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "rlopt" in done.stdout
    light = {"numpy"} if arguments[:1] == ["compare"] else set()  # whose flags are those of its analysis
    assert "rlopt" in imported and not imported & set(HEAVY) - light
    listed = SUBVERBS.get(arguments[0], ()) if len(arguments) == 1 else ()
    flags = [f"--mix-{name} " for name in MIXES] if arguments == ["compare", "--help"] else []
    assert all(f"\n  {name} " in done.stdout for name in (*listed, *flags))


def test_a_warning_is_one_line_that_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored afterwards
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["--version"]) == 0
    assert warnings.formatwarning(UserWarning("slow:\n why"), UserWarning, "file.py", 3) == "warning: slow: why\n"


def test_a_person_at_a_terminal_is_told_at_once_that_files_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["data", "info", "nowhere.npz"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "rlopt data info: reading ..." and second.startswith("rlopt: error: nowhere.npz does not exist")
    assert main(["plot", "nowhere"]) == 2 and capsys.readouterr().err.startswith("rlopt plot: reading ...\n")


@pytest.mark.parametrize(
    "line",
    ["data", "data help", "data info --help", "data info", "data filter a b", "data generate", "demos recrod",
     "demos record", "preferences new", "preferences fit there", "compare", "compare x --out x.txt", "plot --hepl"],
)  # fmt: skip
def test_nothing_is_said_of_reading_where_nothing_is_read(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with contextlib.suppress(SystemExit):
        main(line.split())
    assert "reading" not in capsys.readouterr().err


def test_modules_are_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlopt.agents.mdpo", "--help"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and done.stdout == rlopt("train", "mdpo", "--help").stdout
    assert "--gae-lambda" in done.stdout and "--total-timesteps" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "rlopt", "--version"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and done.stdout == rlopt("--version").stdout


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("trian mdpo", "unknown verb 'trian': did you mean 'train'?"),
        ("train mdop", "unknown agent 'mdop': did you mean 'mdpo'?"),
        ("demos conver", "unknown subverb of rlopt demos 'conver': did you mean 'convert'?"),
        ("train", "which agent?"),
        ("train mdpo --env Hopper-v5 --gae-lamda 0.9", "unknown option '--gae-lamda': did you mean '--gae-lambda'?"),
        ("train mdpo --env Hopper-v5 --backend envpol", "backend = envpol is not a choice: did you mean 'envpool'?"),
        ("train mdpo --env Hopper-v5 --gae-lambda 1.5", "gae_lambda = 1.5 is outside [0, 1]"),
        ("train mdpo --env Hopper-v5 --gae-lambda big", "gae_lambda = big is not a number"),
        ("train mdpo --preset mujoco/hoper", "unknown preset 'mujoco/hoper'"),
        ("train mdpo", "no environment given"),
        ("resume", "required: RUN"),
        ("resume x --total-timestep 5", "did you mean '--total-timesteps'?"),
        ("doctor --quick", "unknown option '--quick'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(line: str, named: str) -> None:
    done = rlopt(*line.split())
    assert done.returncode == 2 and done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("rlopt: error: ") and named in said


def test_misspelt_environment_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    done = rlopt("train", "mdpo", "--env", "dm_control/cheeta-run", cwd=tmp_path)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    (said,) = done.stderr.splitlines()
    assert said.startswith("rlopt: error: ") and "dm_control/cheetah-run" in said


def test_run_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = rlopt("train", "mdpo", "--env", "rlopt/Corridor-v0", "--run-dir", str(tmp_path))
    assert done.returncode == 2 and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (said,) = done.stderr.splitlines()
    assert "exists: choose another --run-dir" in said


def test_folder_that_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    done = rlopt("resume", str(tmp_path / "nothing"))
    assert done.returncode == 2 and not (tmp_path / "nothing").exists()
    (said,) = done.stderr.splitlines()
    assert "is not a run folder" in said


@pytest.mark.slow
def test_ctrl_c_prints_the_resume_command_and_the_resumed_run_is_the_same(tmp_path: Path) -> None:
    whole = rlopt(*SMALL_RUN.split(), "--run-dir", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    lines = whole.stdout.splitlines()
    assert lines[0].startswith("mdpo on ") and lines[0].endswith(" environment steps")
    assert lines[1] == lines[-1] == "run folder: whole"
    assert any("env steps/s" in line and "left" in line for line in lines)

    command = [sys.executable, "-m", "rlopt.cli.main", *SMALL_RUN.split(), "--run-dir", "cut"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    while process.poll() is None and not list(tmp_path.glob("cut/checkpoints/step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "rlopt resume cut" in out.splitlines() and "Traceback" not in err

    resumed = rlopt("resume", "cut", cwd=tmp_path)
    assert resumed.returncode == 0 and "continuing from step-" in resumed.stdout
    again = rlopt("resume", "cut", cwd=tmp_path)
    assert again.returncode == 0 and "is complete" in again.stdout
    for name in ("progress.csv", "episodes.csv", "evaluations.csv"):
        assert rows(tmp_path / "cut" / name) == rows(tmp_path / "whole" / name), name


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        times = ("time/fps", "time/time_elapsed")
        return [{key: value for key, value in row.items() if key not in times} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_killed_runs_are_continued_bit_for_bit(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "kill_test.py"
    command = [sys.executable, str(script), "--runs", "1", "--seed", "24", "--folder", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 killed cases are bit for bit the uninterrupted run" in done.stdout


BROKEN_PIPE = """
import sys
from rlopt.cli import main as command

def broken(argv):
    raise BrokenPipeError(32, "Broken pipe")

command.run_verb = broken
sys.exit(command.main([]))
"""


@pytest.mark.parametrize("read", [True, False])
def test_a_broken_pipe_is_no_error_only_where_nobody_reads_the_output(read: bool) -> None:
    reader, writer = os.pipe()
    if not read:
        os.close(reader)
    command = [sys.executable, "-c", BROKEN_PIPE]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    if read:
        os.close(reader)
        assert done.returncode == 1 and done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")
    else:
        assert done.returncode == 0 and not done.stderr
