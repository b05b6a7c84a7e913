"""A distribution of somebody else's, installed by pip: its agent, environment and augmentation by every command."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pages
import pytest
from offline_data import recorded

import rlopt
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint

SOURCE = Path(__file__).resolve().parents[1] / "third_party" / "rlopt_example"
ONE_AFTER_THE_OTHER = """
import shlex, sys
from rlopt.cli.main import main
for line in sys.argv[1:]:
    if code := main(shlex.split(line)):
        sys.exit(code)
"""
TRAIN = ["train", "rwr", "--env", "example/Glider-v0", "--n-steps", "64"]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """``command("train", ...)``: ``rlopt`` in a process and a folder, where the distribution is installed."""
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(SOURCE, folder / "source")  # pip builds in the folder of the source
    return installed(folder)


def installed(folder: Path) -> Command:
    """Installs the distribution in ``folder/source`` into ``folder/site``; commands then run in ``folder``."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    pip = [sys.executable, "-m", "pip", "install", *options, str(folder / "source")]
    subprocess.run(pip, check=True, capture_output=True)
    places = [str(folder / "site"), str(Path(rlopt.__file__).resolve().parents[1])]

    def run(*words: str, code: str = "", expected: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *(["-c", code] if code else ["-m", "rlopt"]), *words],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == expected, done.stderr
        return done

    run.folder = folder  # type: ignore[attr-defined]
    return run


def several(command: Command, *lines: str | list[str]) -> str:
    """What commands print that one process executes in turn, which saves it the imports."""
    written = [line if isinstance(line, str) else shlex.join(line) for line in lines]
    return command(*written, code=ONE_AFTER_THE_OTHER).stdout


def folder_of(command: Command) -> Path:
    return command.folder  # type: ignore[attr-defined, no-any-return]


def test_the_help_names_it_and_its_settings(command: Command) -> None:
    lines = command("train", "--help").stdout.splitlines()
    assert "reward-weighted regression, on-policy (rlopt-example 0.3)" in next(line for line in lines if "rwr" in line)
    assert "--temperature" in command("train", "rwr", "--help").stdout
    assert "did you mean 'rwr'" in command("train", "rwx", expected=2).stderr
    # What the settings declare is checked as for rlopt's own agents.
    assert "temperature" in command(*TRAIN, "--temperature", "0", expected=2).stderr


@pytest.mark.slow
def test_a_run_is_trained_resumed_evaluated_and_exported(command: Command) -> None:
    folder = folder_of(command)
    train = [*TRAIN, "--eval-every", "256", "--eval-episodes", "1", "--total-timesteps"]
    several(command, [*train, "512", "--run-dir", "whole"], [*train, "256", "--run-dir", "part"])
    evaluate = "evaluate part --episodes 3"
    for lines in (
        ["resume part --total-timesteps 512", evaluate],
        ["export part --to torchscript --out policy.pt", f"{evaluate} --engine local --workers 1"],
    ):
        several(command, *lines)
        result = json.loads((folder / "part" / "evaluation.json").read_text())
        # 50 steps, each of which costs at most the squared distance of a corner.
        assert result["agent"] == "rwr" and result["mean_length"] == 50 and -100 <= result["mean"] <= 0
    states = [
        read_checkpoint(list_checkpoints(folder / run / "checkpoints")[-1]).trees["networks"]["modules"]["policy"]
        for run in ("whole", "part")
    ]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        np.testing.assert_array_equal(tensor.numpy(), states[1][name].numpy(), err_msg=name)
    code = "import rlopt, numpy as np; p = rlopt.load_policy('policy.pt'); m = rlopt.load('part', device='cpu')\n"
    code += "o = np.array([[.1, -.2]], np.float32); a, b = (x.predict(o, deterministic=True)[0] for x in (p, m))\n"
    code += "assert type(m).__module__ == 'rlopt_example.algorithm' and np.allclose(a, b, atol=1e-5)"
    command(code=code)


@pytest.mark.slow
def test_a_sweep_and_a_search_are_run_by_workers_and_compared(command: Command) -> None:
    folder = folder_of(command)
    shared = "--env example/Glider-v0 --total-timesteps 128 --eval-every 128 --eval-episodes 1 --workers 1"
    rwr = f"--agent rwr --n-steps 64 {shared}"
    several(
        command,
        f"sweep --agent rwr mdpo {shared} --sweep-dir agents",
        f"sweep {rwr} --set temperature=0.5,2 --seeds 0..1 --sweep-dir sweep",
        f"tune {rwr} --search temperature=0.1..2 --trials 2 --tune-dir tune",
    )
    shown = several(
        command,
        "resume sweep",
        "compare sweep --by temperature --out sweep.png",
        "plot agents --key evaluation --out agents.png",
    )
    assert "4 of 4 runs have ended" in shown
    assert "temperature = 0.5" in shown and "temperature = 2.0" in shown
    assert (folder / "agents.png").is_file()


@pytest.mark.slow
def test_its_augmentation_is_exact_and_learnt_from(command: Command) -> None:
    folder = folder_of(command)
    sys.path.insert(0, str(folder / "site"))
    try:
        from rlopt_example.envs import Glider

        env = Glider()
    finally:
        sys.path.remove(str(folder / "site"))
    act = lambda _, generator: generator.uniform(-1, 1, 2).astype(np.float32)  # noqa: E731
    data = recorded(env, "example/Glider-v0", 400, act)
    data.save(folder / "data")
    assert "exact" in command("data", "check", "data", "--n", "100").stdout
    assert "did you mean 'glider'" in command("data", "augment", "data", "x", "--domain", "glidr", expected=2).stderr
    several(
        command,
        "data augment data more --n 800 --include-source",
        "train bc --dataset more --total-timesteps 50 --eval-every 50 --run-dir bc",
        "train bc --dataset data --augment guda --n-augmented 100 --total-timesteps 50 --eval-every 0 --run-dir bc2",
    )


@pytest.mark.slow
def test_the_agent_of_the_recipe_is_a_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.chdir(tmp_path / "source")
    for block in pages.blocks("docs/recipes.md"):
        pages.write_file(block)
    command = installed(tmp_path)
    several(
        command,
        "train my_ppo --env CartPole-v1 --total-timesteps 512 --eval-every 0 --run-dir run",
        "evaluate run --episodes 1",
    )
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["agent"] == "my_ppo"
    assert "PPO, resumable (my-agent 0.1)" in command("train", "--help").stdout


@pytest.mark.slow
def test_it_keeps_the_contract(command: Command) -> None:
    command(code="import rlopt.testing; rlopt.testing.check_agent('rwr', n_steps=16)")
