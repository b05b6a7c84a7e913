"""A command that rlopt prints does what the sentence around it says."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from rlopt import MDPO
from rlopt.cli.main import main
from rlopt.registry import AGENTS, import_agent
from rlopt.run_folder import RunFolder
from rlopt.sweeps import sweep, tune
from rlopt.sweeps.spec import SweepSpec
from rlopt.sweeps.tune_spec import TuneFolder, TuneSpec

TRAIN = shlex.split(
    "train mdpo --env rlopt/Corridor-v0 --n-steps 8 --net-arch 4 --value-batch-size 8 --device cpu --compile off "
    "--learning-rate 1e-9 --eval-every 8 --eval-episodes 1 --total-timesteps 16"
)
"""Nothing is learned, so that the first evaluation stays the best."""


class Own(MDPO):
    """An agent of somebody's own, which no file may import."""


OWN = f"{Own.__module__}:Own"


def printed(capsys: pytest.CaptureFixture[str], sentence: str) -> list[str]:
    """The words of the command in the line that holds ``sentence``, or in the line after it."""
    text = capsys.readouterr().out
    found = re.search(re.escape(sentence) + r"\s+rlopt (.*)", text)
    assert found, text
    return shlex.split(found[1])


def test_the_best_evaluation_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--run-dir", "my run"]) == 0
    command = printed(capsys, "evaluate it with:")
    assert main([*command, "--episodes", "1"]) == 0
    best = json.loads(Path("my run", "best.json").read_text())["checkpoint"]
    assert best == "step-000000000008"
    assert json.loads(Path("my run", "evaluation.json").read_text())["checkpoint"] == best

    assert main(["resume", "my run"]) == 0
    assert main(printed(capsys, "to train on:")) == 0
    assert "step-000000000032" in [path.name for path in Path("my run", "checkpoints").iterdir()]


def test_runs_of_several_seeds_are_drawn_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--seeds", "0..1", "--run-dir", "both"]) == 0
    text = capsys.readouterr().out
    commands = dict(re.findall(r"(draw them|train on) with: rlopt (.*)", text))
    assert main(shlex.split(commands["draw them"])) == 0
    assert Path("both", "learning_curve.png").is_file()
    assert main(shlex.split(commands["train on"])) == 0
    for seed in (0, 1):
        assert Path("both", f"seed{seed}", "checkpoints", "step-000000000032").is_dir()


@pytest.mark.parametrize("kind", ["sweep", "search"])
def test_a_sweep_and_a_search_of_an_agent_of_ones_own_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import_agent(OWN)
    settings = {"eval_every": 10, "total_timesteps": 10}
    spec = SweepSpec((OWN,), ("rlopt/Corridor-v0",), settings=settings)
    folder: RunFolder
    continued = []
    if kind == "sweep":
        folder = sweep.SweepFolder(tmp_path / "runs")
        folder.write_spec(spec, sweep.EngineOptions())
        monkeypatch.setattr(
            sweep, "run_sweep", lambda *given: continued.append(given[0]) or sweep.SweepResult(*[()] * 4)
        )
    else:
        folder = TuneFolder(tmp_path / "runs")
        folder.path.mkdir()
        folder.write_spec(TuneSpec(spec, ("step_size=0.1..1",)), sweep.EngineOptions())
        monkeypatch.setattr(tune, "run_tune", lambda *given: continued.append(given[0].base))
    command = shlex.split(folder.command)[1:]
    monkeypatch.delitem(AGENTS, OWN)
    main(command)
    assert [each.agent for each in continued] == [(OWN,)]


def test_a_run_that_is_deleted_while_it_is_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--run-dir", "whole"]) == 0
    for argv, module, name in (
        (["evaluate", "gone", "--episodes", "1"], "rlopt.checkpoint.choose", "environment_settings"),
        (["evaluate", "gone", "--episodes", "1"], "rlopt.evaluation.evaluate", "named_policy"),
        (["export", "gone", "--to", "torchscript", "--out", "p.pt"], "rlopt.checkpoint.load", "load"),
        (["plot", "gone"], "rlopt.analysis.logs.read", "default_key"),
        (["plot", "gone"], "rlopt.analysis.curves", "_environment"),
        (["plot", "gone"], "rlopt.analysis.plotting", "save_figure"),
        (["compare", "gone"], "rlopt.analysis.logs.read", "default_key"),
        (["resume", "gone", "--total-timesteps", "99"], "rlopt.runs.train", "newest_checkpoint"),
        (["resume", "gone", "--total-timesteps", "99"], "rlopt.runs.train", "build"),
    ):
        shutil.copytree("whole", "gone")
        with monkeypatch.context() as patch:
            before = getattr(__import__(module, fromlist=[name]), name)

            def deleting(*given: object, before: object = before, **named: object) -> object:
                shutil.rmtree("gone", ignore_errors=True)
                return before(*given, **named)  # type: ignore[operator]

            patch.setattr(f"{module}.{name}", deleting)
            code = main(argv)
        said = capsys.readouterr().err.splitlines()
        shutil.rmtree("gone", ignore_errors=True)
        assert (code, len(said)) in ((0, 0), (2, 1)), (argv, name, said)
