"""Weights & Biases as a writer: wandb's own client, against a server of the test, and what it must never do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import KEY, FakeWandb, StoredRun, serving
from runs import AGENT, assert_same_result, read_csv, send_signal_at, settings

from rlopt.cli.main import main
from rlopt.errors import ConfigError, RunError
from rlopt.loggers.wandb import WandbLog, open_wandb
from rlopt.loggers.writers import TIME_COLUMNS
from rlopt.run_folder import RunFolder, write_json
from rlopt.runs.boundary import RunHook
from rlopt.runs.multi_seed import resume_seeds, train_seeds
from rlopt.runs.train import resume, train
from rlopt.settings.wandb import check_wandb
from rlopt.sweeps.spec import SweepSpec, expand


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No settings of W&B but those of the test, which wandb reads once a process."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        (tmp_path / "home").mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # the client leaves its logs where it is called
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.fixture
def server(environment: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with serving() as fake:
        environment.setenv("WANDB_BASE_URL", fake.url)
        environment.setenv("WANDB_API_KEY", KEY)
        yield fake


def only(server: FakeWandb) -> StoredRun:
    (run,) = server.runs.values()
    return run


def assert_rows_are_those_of(folder: Path, run: StoredRun) -> None:
    """Every row of progress.csv, in order, once, all its keys, at its step."""
    rows = read_csv(folder / "progress.csv")
    assert [row["step"] for row in rows] == [str(sent["_step"]) for sent in run.history]
    for row, sent in zip(rows, run.history, strict=True):
        own = {key: value for key, value in sent.items() if not key.startswith("_") and key not in TIME_COLUMNS}
        assert {key: float(value) for key, value in row.items() if value} == own


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = RunHook.__call__

    def call(self: RunHook, model: Any) -> bool:
        if model.num_timesteps == step:
            raise RuntimeError("the test's own")
        return original(self, model)

    monkeypatch.setattr(RunHook, "__call__", call)


def wandb_command(line: str) -> None:
    """Runs the command that a line of a run names."""
    words = shlex.split(line[line.index("wandb sync ") :])
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, timeout=120)


@pytest.mark.slow
def test_the_rows_are_sent_once_and_the_run_is_what_it_is_without(tmp_path: Path, server: FakeWandb) -> None:
    train("mdpo", settings(tmp_path / "without"), AGENT)
    train("mdpo", settings(tmp_path / "with", wandb="project", wandb_entity="team"), AGENT)
    assert_same_result(tmp_path / "without", tmp_path / "with")
    run = only(server)
    assert_rows_are_those_of(tmp_path / "with", run)
    assert run.exit_codes == [0]
    assert any("eval/mean_return" in row for row in run.history)
    sent = run.variables
    assert (sent["project"], sent["entity"], sent["displayName"]) == ("project", "team", "with")
    config = {name: entry["value"] for name, entry in json.loads(sent["config"]).items()}
    expected = {"agent": "mdpo", "env": "rlopt/RandomTarget-v0", "seed": 0, "n_steps": 16, "run_folder": "with"}
    assert expected.items() <= config.items() and "torch" in config["versions"] and "run_dir" not in config
    metrics = str(config["_wandb"]["m"])
    assert "'step'" in metrics and "'*'" in metrics
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(KEY.encode() in content for content in written)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_one_without_double_rows(tmp_path: Path, server: FakeWandb) -> None:
    folder = tmp_path / "run"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "helpers")!r})
from pathlib import Path
from runs import AGENT, settings
from rlopt.runs.train import train
from rlopt.runs.boundary import RunHook
log = RunHook.log
def logged(self, model):
    log(self, model)
    if model.num_timesteps == 224:
        os.kill(os.getpid(), signal.SIGKILL)
RunHook.log = logged
train("mdpo", settings(Path({str(folder)!r}), wandb="project", checkpoint_every=128), AGENT)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=300).returncode == -9
    assert len(read_csv(folder / "progress.csv")) == 7
    resume(folder)
    assert_rows_are_those_of(folder, only(server))  # from step 128; 160 to 224 were done twice
    assert only(server).exit_codes[-1] == 0


@pytest.mark.slow
def test_what_was_kept_offline_is_synced_once(tmp_path: Path, server: FakeWandb) -> None:
    folder, lines = tmp_path / "run", []
    server_url, key = os.environ["WANDB_BASE_URL"], os.environ.pop("WANDB_API_KEY")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlopt.console.output.say", lines.append)
        patch.setenv("WANDB_MODE", "offline")
        with pytest.MonkeyPatch.context() as failing:
            fail_at(failing, 224)
            with pytest.raises(RuntimeError, match="own"):
                train("mdpo", settings(folder, wandb="project", checkpoint_every=128), AGENT)
        resume(folder)
        assert not server.runs and server_url
    os.environ["WANDB_API_KEY"] = key
    for line in [line for line in lines if line.startswith("W&B: offline")]:
        wandb_command(line)
    assert_rows_are_those_of(folder, only(server))
    assert only(server).exit_codes == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("why", ["no network", "no login"])
def test_without_network_or_login_a_line_says_how_to_send_it_later(
    why: str, tmp_path: Path, server: FakeWandb, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if why == "no network":
            patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        else:
            patch.delenv("WANDB_API_KEY")
        assert train("mdpo", settings(tmp_path / "run", wandb="project"), AGENT).exit_code == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "W&B" in line)
    assert ("refused" if why == "no network" else "wandb login") in line
    assert not server.runs
    wandb_command(line)
    assert_rows_are_those_of(tmp_path / "run", only(server))


@pytest.mark.slow
def test_seeds_are_runs_of_one_group(tmp_path: Path, server: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        send_signal_at(patch, 160)
        assert train_seeds("mdpo", settings(tmp_path / "both", seeds="1,2", wandb="project"), AGENT).exit_code == 130
    assert resume_seeds(tmp_path / "both").exit_code == 0
    runs = {run.variables["displayName"]: run for run in server.runs.values()}
    assert sorted(runs) == ["both/seed1", "both/seed2"]
    for seed in (1, 2):
        run = runs[f"both/seed{seed}"]
        assert run.variables["groupName"] == "both" and run.exit_codes == [130, 0]
        assert_rows_are_those_of(tmp_path / "both" / f"seed{seed}", run)


def test_a_sweep_is_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)

    def groups(**values: Any) -> set[str | None]:
        spec = SweepSpec(agent=("mdpo",), env=("Hopper-v5", "Swimmer-v5"), seeds="0..1", settings=values)
        return {run.job.arguments["run"]["wandb_group"] for run in expand(spec, tmp_path / "sweep-7")}

    assert groups(wandb="project") == {"sweep-7"}
    assert groups(wandb="project", wandb_group="mine") == {"mine"}
    assert groups() == {None}
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert groups(wandb="project") == {"theirs"}


class Recorder:
    """In place of a W&B run, and of the module: notes what it is told, or fails."""

    url, offline, disabled, starting_step, dir = "https://w/r", False, False, 0, "somewhere/files"

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails, self.rows, self.exit_code = fails, [], None  # type: ignore[var-annotated]
        self.settings = self

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        if self.fails is not None:
            raise self.fails
        assert commit
        self.rows.append((step, row))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code
        if self.fails is not None:
            raise self.fails

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    mode, base_url, __spec__ = "offline", "", "any"

    def setup(self, _: Any) -> Recorder:
        return self

    def Settings(self, **_: Any) -> None: ...

    def init(self, **arguments: Any) -> Recorder:
        self.arguments = arguments
        return self


def test_a_row_is_noted_before_it_is_sent_and_never_sent_again() -> None:
    run, noted = Recorder(), []
    log = WandbLog(run, lambda step: noted.append((step, len(run.rows))), 20, print)
    for step in (10, 20, 30, 30, 25, 40):
        log.write({"loss": 0.5, "hidden": 1.0}, {"loss": ("",), "hidden": ("csv",)}, step)
    assert run.rows == [(30, {"step": 30, "loss": 0.5}), (40, {"step": 40, "loss": 0.5})]
    assert noted == [(30, 0), (40, 1)]
    log.exit_code = 143
    log.close()
    assert run.exit_code == 143


@pytest.mark.parametrize("error", [OSError("connection lost"), RuntimeError("two\nlines")])
def test_a_failing_client_is_one_line_and_no_end_of_training(error: Exception) -> None:
    lines: list[str] = []
    log = WandbLog(Recorder(error), lambda _: None, -1, lines.append)
    for step in (1, 2, 3):
        log.send(step, {})
    log.close()
    assert len(lines) == 1 and lines[0].startswith("warning: W&B fails") and "\n" not in lines[0]


def test_rows_that_did_not_arrive_in_time_have_a_command() -> None:
    lines: list[str] = []
    WandbLog(Recorder(TimeoutError()), lambda _: None, -1, lines.append).close()
    assert len(lines) == 1 and lines[0].endswith("wandb sync --include-online somewhere")


def stored_run(folder: Path, **agent_config: Any) -> RunFolder:
    folder.mkdir()
    run = {"env": "Hopper-v5", "run_dir": str(folder), "wandb": "project"}
    write_json(folder / "config.json", {"agent": "mdpo", "run": run, "agent_config": agent_config})
    write_json(folder / "versions.json", {"packages": {"torch": "2"}, "python": "3.11", "command_line": "rlopt secret"})
    (folder / "progress.csv").write_text("step,loss,name,flag\n10,0.5,,\n20,nan,text,True\n30,1,,\n")
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("offline", "known", "identity", "sent"),
    [
        (False, 0, None, [10, 20, 30]),  # W&B is new to the run
        (False, 21, {"step": 30, "offline_step": -1}, [30]),  # what was lost is sent again
        (False, 0, {"step": 20, "offline_step": 20}, [30]),  # what waits for wandb sync is not
        (True, 0, {"step": 20, "offline_step": -1}, [30]),  # offline nobody knows what arrived
    ],
)
def test_rows_that_are_missing_are_sent_when_a_run_goes_on(
    offline: bool, known: int, identity: Any, sent: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recorder = stored_run(tmp_path / "run"), Recorder()
    recorder.offline, recorder.starting_step = offline, known
    if identity is not None:
        write_json(folder.path / "wandb.json", {"id": "abc", "project": "project", "url": None, **identity})
    monkeypatch.setitem(sys.modules, "wandb", recorder)  # type: ignore[arg-type]
    log = open_wandb(folder, settings(folder.path, wandb="project"), lambda _: None)
    assert log is not None and [step for step, _ in recorder.rows] == sent
    assert recorder.arguments["resume"] == "allow" and (identity is None or recorder.arguments["id"] == "abc")
    row = dict(recorder.rows).get(20)
    assert row is None or (row["name"], row["flag"], str(row["loss"])) == ("text", True, "nan")
    stored = json.loads((folder.path / "wandb.json").read_text())
    assert stored["step"] == 30 and stored["offline_step"] == (
        30 if offline else (identity or {}).get("offline_step", -1)
    )


def test_a_database_s_password_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored_run(tmp_path / "run", database="postgresql://me:secret@host/db", study="s")
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)  # type: ignore[arg-type]
    open_wandb(folder, settings(folder.path, wandb="project"), lambda _: None)
    assert "secret" not in str(recorder.arguments["config"]) and recorder.arguments["config"]["study"] == "s"
    assert recorder.arguments["settings"]["x_disable_meta"] is True


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"id": "../x"}', '{"id": "abc", "step": "4"}', '{"id": 3}', '{"x": 1}']
)
def test_a_damaged_identity_is_one_line(content: str, tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "run")
    (folder.path / "wandb.json").write_text(content)
    with pytest.raises(RunError, match="remove it to begin another W&B run"):
        open_wandb(folder, settings(folder.path, wandb="project"), lambda _: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wandb": "me/project"}, "--wandb project --wandb-entity me"),
        ({"wandb": "a:b"}, "it has :"),
        ({"wandb": "a\nb"}, r"it has '\n'"),
        ({"wandb": " "}, "it is empty"),
        ({"wandb": "x" * 129}, "it is too long"),
        ({"wandb_group": "g"}, "add that"),
        ({"wandb_mode": "offline"}, "add that"),
    ],
)
def test_settings_that_wandb_has_not(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_wandb(settings(tmp_path, **changes))


def test_a_missing_package_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    command = ["train", "mdpo", "--env", "Hopper-v5", "--run-dir", str(tmp_path / "run"), "--wandb", "project"]
    assert main(command) == 2
    assert capsys.readouterr().err == "rlopt: error: --wandb needs the package wandb: pip install 'rlopt[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_disabled_is_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored_run(tmp_path / "run")
    run = settings(folder.path, wandb="project")
    assert open_wandb(folder, dataclasses.replace(run, wandb_mode="disabled"), print) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert open_wandb(folder, run, print) is None
    assert not (folder.path / "wandb.json").exists()
