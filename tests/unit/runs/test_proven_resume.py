"""What a run says of its resume: exact and why that is known, not exact, unproved, or fresh episodes."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hidden_state import CLASSES, UNREADABLE
from runs import AGENT, leaves, read_csv, send_signal_at, settings

import rlopt
from rlopt.checkpoint.files import latest_checkpoint
from rlopt.cli.main import main
from rlopt.evaluation.envs import normalised_as_trained
from rlopt.runs.train import resume, train


def hidden(folder: Path, name: str, wrapper: str = "none", **changes: Any) -> Any:
    kwargs = json.dumps({"name": name, "wrapper": wrapper})
    env = "hidden_state:hidden/State-v0"
    return settings(folder, env=env, env_kwargs=kwargs, normalize_observations=False, **changes)


def newest(folder: Path) -> Any:
    return latest_checkpoint(folder / "checkpoints", lambda line: pytest.fail(line))


def new_process(name: str) -> None:
    getattr({**CLASSES, **UNREADABLE}[name], "new_process", lambda: None)()
    torch.manual_seed(999)


def stopped(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, wrapper: str = "none", at: int = 288) -> Path:
    """A run that Ctrl-C ended; its first comparison is made at step 256."""
    new_process(name)
    with monkeypatch.context() as patch:
        send_signal_at(patch, at, signal.SIGINT)
        assert train("mdpo", hidden(folder, name, wrapper, eval_every=0), AGENT).exit_code == 130
    new_process(name)
    return folder


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [
        ("PythonRandom", "FrameStackObservation"),
        ("TorchGenerator", "StickyAction"),
        ("NestedGenerator", "DelayObservation"),
        ("Curriculum", "NormalizeObservation"),
        ("Annealed", "NormalizeReward"),
        ("GlobalPython", "none"),
        ("GlobalTorch", "TimeAwareObservation"),
        ("ModuleCounter", "none"),
        ("OwnState", "several"),
    ],
)
def test_a_resume_that_is_called_exact_is(
    name: str, wrapper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_process(name)
    train("mdpo", hidden(tmp_path / "whole", name, wrapper, eval_every=0), AGENT)
    folder = stopped(monkeypatch, tmp_path / "stopped", name, wrapper)
    capsys.readouterr()
    resume(folder)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("resume: ", "warning: "))]
    assert line.startswith("resume: exact: restored environments repeated ")
    whole, continued = (dict(newest(path).trees) for path in (tmp_path / "whole", folder))
    for tree in (whole, continued):  # spaces have generators of their own, which the system seeds
        tree["env"] = {part: tree["env"][part] for part in ("wrappers", "statistics")}
    assert leaves(whole) == leaves(continued)
    assert read_csv(tmp_path / "whole" / "episodes.csv") == read_csv(folder / "episodes.csv")


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("Clock", "not exact", "reward differs in step 1 after a restore, which depends on a clock"),
        ("RareInC", "unproved", "Python cannot read rounds (cycle)"),
        ("ForgetfulOwnState", "unproved", "leave out total,"),
        ("BegunGenerator", "fresh episodes", "Python cannot read numbers (generator)"),
    ],
)
def test_other_resumes_are_told_apart(
    name: str, kind: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(monkeypatch, tmp_path / "run", name, "NormalizeObservation")
    said = capsys.readouterr().out
    assert f"warning: no exact resume: {kind}: " in said and what in said
    assert json.loads((folder / "resume.json").read_text())["kind"] == kind
    before = newest(folder).trees["env"]["statistics"]
    resume(folder, 320)
    said = capsys.readouterr().out
    assert f"warning: resume: {kind}: " in said and what in said
    after = newest(folder).trees["env"]["statistics"]
    # 32 steps more, and what resets add: the statistics were not lost with the episodes.
    for (old,), (new,) in zip(before, after, strict=True):
        assert 16 <= new["count"] - old["count"] <= 16 + 8


def test_a_run_that_ended_too_early_is_unproved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(monkeypatch, tmp_path / "run", "Curriculum", at=64)
    capsys.readouterr()
    resume(folder)
    assert "warning: resume: unproved: no step was compared yet" in capsys.readouterr().out
    (folder / "resume.json").write_text('{"kind": "exact",')
    resume(folder, 352)
    assert "warning: resume: unproved: no step was compared yet" in capsys.readouterr().out


def test_a_resume_repeats_the_steps_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(monkeypatch, tmp_path / "run", "Hashed")
    assert json.loads((folder / "resume.json").read_text())["kind"] == "exact"
    capsys.readouterr()
    # Python gives texts other hashes in every process.
    with monkeypatch.context() as patch:
        patch.setattr("hidden_state.hash_of", lambda text: hash(text) + 1)
        resume(folder, 320)
    assert "warning: resume: not exact: the reward differs in step 1 " in capsys.readouterr().out
    (folder / "proof" / "steps.json").write_text("{}")
    (folder / "resume.json").write_text(
        json.dumps({"kind": "exact", "reason": "", "at_step": 0, "steps": 0, "ends": 0})
    )
    resume(folder, 352)
    assert "warning: resume: unproved: the recorded steps cannot be read" in capsys.readouterr().out


def test_an_evaluation_normalises_as_the_training_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    train("mdpo", hidden(folder, "OwnNumpy", "NormalizeObservation", eval_every=0), AGENT)
    first, second = (entry[0] for entry in newest(folder).trees["env"]["statistics"])
    assert first["count"] > 100 and not np.array_equal(first["mean"], second["mean"])
    model, kwargs = rlopt.load(folder), {"name": "OwnNumpy", "wrapper": "NormalizeObservation"}
    env = rlopt.make_env("hidden_state:hidden/State-v0", n_envs=3, seed=1, env_kwargs=kwargs)
    raw = rlopt.make_env("hidden_state:hidden/State-v0", n_envs=3, seed=1, env_kwargs={"name": "OwnNumpy"})
    for each in (env, raw):
        each.seed(4)
    with normalised_as_trained(model, env):
        seen, unseen = env.reset(), raw.reset()
        for index, own in enumerate((first, second, first)):
            expected = (unseen[index] - own["mean"]) / np.sqrt(own["var"] + 1e-8)
            np.testing.assert_allclose(seen[index], expected, rtol=1e-5)
        env.seed(4)
        np.testing.assert_array_equal(env.reset(), seen)  # nothing was counted
    assert env.statistics()[0][0]["count"] < 1, "the environment's own are put back"
    model.wrapper_statistics = ()
    with pytest.warns(UserWarning, match="no statistics from the training"):
        rlopt.evaluate(model, env, 1)
    assert main(["export", str(folder), "--to", "torchscript", "--out", str(tmp_path / "policy.pt")]) == 0
    assert "its environment normalises observations or rewards" in capsys.readouterr().out
