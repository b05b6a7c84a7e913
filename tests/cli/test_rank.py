"""``rlopt rank`` as a user meets it."""

import importlib.util
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from one_line import refused
from ranking_study import answer_all, make_study, optimizer

from rlopt.cli.main import main

VERBS = ("serve", "export", "import", "info", "replay")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of two consumed rounds, in the folder ``swing`` of the working folder."""
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path / "swing", deadline_seconds=0.0)
    rater = study.store.add_rater(study.study, "session", "Ada").id
    for number in range(2):
        assert study.step() is None
        answer_all(study, [rater], str(number))
        assert study.step() is not None
    return "swing"


@pytest.mark.parametrize("package", ["sqlalchemy", "fastapi", "uvicorn", "jinja2"])
def test_the_extra_is_named_where_it_is_missing(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    for arguments in (["serve", "x"], ["export", "x"], ["import", "x", "y"], ["info", "x"], ["replay", "x"]):
        assert f"need {package}: pip install 'rlopt[ui]'" in refused(capsys, "rank", *arguments)


def test_what_is_no_study_is_told(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("serve", "export", "info", "replay"):
        assert "no study at nowhere" in refused(capsys, "rank", verb, "nowhere")
        assert "did you mean 'grey'" in refused(capsys, "rank", verb, folder, "--name", "gray")
    assert "needs a folder for its clips" in refused(capsys, "rank", "info", "postgresql://nobody@localhost:1/none")
    unreachable = refused(capsys, "rank", "info", "postgresql://nobody:secret@localhost:1/none", "--media", "m")
    assert "refuses" in unreachable and "secret" not in unreachable
    assert "did you mean 'postgresql'" in refused(
        capsys, "rank", "info", "postgres://nobody@localhost/none", "--media", "m"
    )
    assert not Path("nowhere").exists()
    assert "did you mean 'swing'?" in refused(capsys, "rank", "serve", "swing/study.db")
    Path("run").mkdir()
    Path("swing").rename("run/study")
    assert "no study at run: did you mean 'run/study'?" in refused(capsys, "rank", "serve", "run")


def test_serve_refuses_before_it_binds(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--token auto" in refused(capsys, "rank", "serve", folder, "--host", "0.0.0.0")
    for raters in ("0", "-1", "1.5", "ada,", ",", "ada,ada", "x" * 81, "a\tb,\x07"):
        assert "--raters" in refused(capsys, "rank", "serve", folder, "--raters", raters), raters
    assert "at least 20" in refused(capsys, "rank", "serve", folder, "--token", "short")
    for option, value in (
        ("--port", "70000"),
        ("--raters", "0"),
        ("--lease-seconds", "0"),
        ("--minimum-seconds", "-1"),
        ("--requests-per-second", "0"),
    ):
        assert option in refused(capsys, "rank", "serve", folder, option, value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "use another --host or --port" in refused(
            capsys, "rank", "serve", folder, "--port", str(taken.getsockname()[1])
        )


def test_serve_prints_both_urls_and_stops_when_told(folder: str) -> None:
    import httpx2

    command = [sys.executable, "-m", "rlopt.cli.main", "rank", "serve", folder]
    # Where the tests run in the background, the shell has SIGINT ignored.
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", url)
            assert server.stdout.readline().startswith("the results, for you alone: http://127.0.0.1:")
            with httpx2.Client() as client:
                assert ">Begin</button>" in client.get(url).text
            server.send_signal(signal.SIGINT)
            assert server.communicate(timeout=30) == ("", "rlopt: interrupted\n")
        finally:
            server.kill()
    assert server.returncode == 130


def test_export_import_info_and_replay(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["rank", *arguments]) == 0
        return capsys.readouterr().out

    printed = said("export", folder)
    count = len(printed.splitlines())
    assert said("export", folder, "--out", "all.jsonl") == f"{count} lines: all.jsonl\n"
    assert Path("all.jsonl").read_text() == printed and "Ada" not in printed
    assert "--overwrite" in refused(capsys, "rank", "export", folder, "--out", "all.jsonl")
    said("export", folder, "--out", "all.jsonl", "--overwrite", "--with-names")
    assert "Ada" in Path("all.jsonl").read_text()
    assert "did you mean 'pairs'" in refused(capsys, "rank", "export", folder, "--format", "pair")
    assert "cannot be written" in refused(capsys, "rank", "export", folder, "--out", "no/where.jsonl")
    # Gradient: all 4 in order, 6 pairs; line search: the best of 4, 3 pairs.
    assert len(said("export", folder, "--format", "pairs").splitlines()) == 9
    assert len(said("export", folder, "--format", "csv").splitlines()) == 9

    arguments = ("import", "all.jsonl", "copy", "--clips", f"{folder}/media", "--name", "again")
    assert said(*arguments) == "study 'again': copy\n"
    assert "already" in refused(capsys, "rank", *arguments)
    assert "2 rounds replayed" in said("replay", "copy") and "2 rounds replayed" in said("replay", folder)
    described = said("info", "copy")
    assert "ZORankSGD" in described and "2 consumed" in described and "Ada: 2 answers" in described
    assert "1 names deleted" in said("info", "copy", "--forget-names") and "Ada" not in said("info", "copy")
    for name, content in (("none", None), ("binary", b"\xff\xfe"), ("empty", b""), ("other", b'{"type":"x"}\n')):
        if content is not None:
            Path(name).write_bytes(content)
        assert "rlopt rank export" in refused(capsys, "rank", "import", name, "new/study")
        assert not Path("new").exists(), "nothing is left of an import that failed"
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    refused(capsys, "rank", "import", "other", "mine", "--media", "clips/of/mine")
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"] and not Path("clips").exists()
    refused(capsys, "rank", "import", "other", "copy")
    assert "2 rounds replayed" in said("replay", "copy"), "a study that was there stays"


def test_replay_names_the_round_that_differs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    with sqlite3.connect(f"{folder}/study.db") as connection:
        connection.execute("UPDATE answer SET tiers = '[[3],[2],[1],[0]]' WHERE id = 1")
    assert "round 0 of study 'grey' ended in another state" in refused(capsys, "rank", "replay", folder)


class StudiedSearch:
    """As the policy search that people steer: the optimiser's state lies within a larger one."""

    def __init__(self) -> None:
        self.inner, self.played = optimizer(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def tell(self, answers: Any) -> None:
        self.played += 1
        self.inner.tell(answers)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state, arrays = self.inner.state_dict()
        return {"optimizer": state, "played": self.played}, {f"optimizer.{k}": v for k, v in arrays.items()}

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.played = state["played"]
        self.inner.load_state_dict(state["optimizer"], {k.partition(".")[2]: v for k, v in arrays.items()})

    def digest(self) -> str:
        return f"{self.played:04d}" + self.inner.digest()[4:]


@pytest.mark.parametrize("damage", ["", "answer", "state"])
def test_a_policy_search_is_replayed_by_its_optimiser(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    study = make_study(tmp_path, search=StudiedSearch(), deadline_seconds=0.0)  # type: ignore[arg-type]
    rater = study.store.add_rater(study.study, "s").id
    for number in range(4):
        assert study.step() is None
        answer_all(study, [rater], str(number))
        assert study.step() is not None
    with sqlite3.connect(tmp_path / "study.db") as connection:
        if damage == "answer":
            connection.execute("UPDATE answer SET tiers = '[[3],[2],[1],[0]]' WHERE id = 1")
        elif damage == "state":
            connection.execute("UPDATE optimizer_state SET iteration = 5 WHERE iteration = 3")
    if damage:
        said = {"answer": "round 1 of study 'grey' asked about other candidates", "state": "is not that of its answers"}
        assert said[damage] in refused(capsys, "rank", "replay", str(tmp_path))
    else:
        assert main(["rank", "replay", str(tmp_path)]) == 0
        assert "4 rounds replayed, every query and the last state" in capsys.readouterr().out


def test_replay_takes_every_setting_from_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD

    settings: dict[str, Any] = {
        "m": 3, "k": 2, "smoothing": 0.3, "learning_rate": 0.7, "line_search_points": 3, "subspace": 2,
        "accumulate": False, "best_query_in_line_search": True, "smoothing_schedule": "linear",
        "schedule_rounds": 5, "seed": 3,
    }  # fmt: skip
    study = make_study(tmp_path, search=ZORankSGD(np.ones(3), **settings), deadline_seconds=0.0)
    rater = study.store.add_rater(study.study, "s").id
    for number in range(4):
        assert study.step() is None
        answer_all(study, [rater], str(number))
        assert study.step() is not None
    assert main(["rank", "replay", str(tmp_path)]) == 0
    assert "4 rounds replayed" in capsys.readouterr().out
