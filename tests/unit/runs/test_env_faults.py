"""A run whose environment fails: one line with the cause, all but a rollout kept, and it goes on when it is mended."""

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_plan
import faulty_env
import gymnasium
import numpy as np
import pytest
from fault_plan import Plan
from faulty_env import Faulty
from runs import assert_same_result, leaves, steps
from stable_baselines3.common.vec_env import SubprocVecEnv

import rlopt
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.envs.average_reward.river_swim import RiverSwim
from rlopt.errors import EnvFaultError, OutcomeError
from rlopt.runs import boundary

COMMON = f"--env {faulty_env.ID} --checkpoint-every 1000 --log-every 20 --device cpu --compile off --net-arch 8"
# A boundary every 32 steps of two environments; an evaluation of one episode at 128.
ON_POLICY = (
    f"train mdpo {COMMON} --total-timesteps 192 --eval-every 128 --eval-episodes 1 --n-envs 2 --n-steps 16 --n-epochs 1"
)
# A boundary every step.
OFF_POLICY = f"train sac {COMMON} --total-timesteps 60 --eval-every 0 --learning-starts 10 --batch-size 8"
PLAN_AT = 85  # of both environments: the 43rd step of the first, in the third rollout

UNLIKE = "in step(), its observation_space says (2,): make the two agree"
CAUSES = {
    "value": f"{faulty_env.ID} (environment 0) failed in step(): ValueError: simulator lost its way",
    "device": "failed in step(): OSError: [Errno 5] Input/output error: '/dev/robot0'",
    "access": "failed in step(): PermissionError: [Errno 13] Permission denied: '/dev/robot0'",
    "memory": "failed in step(): MemoryError",
    "stop": "failed in step(): StopIteration",
    "exit": "failed in step(): SystemExit: 3",
    "child": "failed in step(): BrokenPipeError: [Errno 32] Broken pipe",
    "sleeps": "has not returned from step() for 0.3 s (--env-timeout)",
    "spins": "has not returned from step() for 0.3 s (--env-timeout)",
    "nan observation": "observation is NaN or infinite at step 86: check the environment's observations",
    "infinite reward": "reward is NaN or infinite at step 86: check the environment's rewards",
    "short observation": f"gave an observation of shape (1,) {UNLIKE}",
    "long observation": f"gave an observation of shape (3,) {UNLIKE}",
    "text observation": "in step(), its observation_space says floats: make the two agree",
    "no observation": f"gave an observation that is None {UNLIKE}",
    "dictionary": f"gave an observation that is dict {UNLIKE}",
    "no reward": "gave the reward None in step(): make it one number",
    "text reward": "gave the reward '1.5' in step(): make it one number",
    "two rewards": "gave the reward array([",
    "complex reward": "gave the reward (1+2j) in step(): make it one number",
    "no end": "gave terminated = None in step(): make it True or False",
    "two ends": "gave terminated = array([ True, False]) in step(): make it True or False",
    "no info": "gave the info None in step(): make it a dictionary",
    "reserved info": "gave info['episode'] = 'x' in step(): rename the key",
    "four values": "but four values: it has the old interface of Gym, wrap it with shimmy.GymV21CompatibilityV0",
}
LEGAL = ("numpy reward", "array reward", "list", "double", "numpy ends")
HANGS = ("sleeps", "spins")


@pytest.fixture(autouse=True)
def sound() -> Iterator[None]:
    fault_plan.plan = None
    yield
    fault_plan.plan = None


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every boundary is kept, however short these runs are."""
    monkeypatch.setattr(boundary, "KEEPING_SHARE", float("inf"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose environment is sound."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fault_plan.plan = None
    assert main([*ON_POLICY.split(), "--run-dir", str(folder)]) == 0
    return folder


def failing(command: str, run: Path, kind: str, at: int = PLAN_AT) -> None:
    fault_plan.plan = Plan(kind, at, folder=run)
    options = ["--env-timeout", "0.3"] if kind in HANGS else []
    assert main([*command.split(), "--run-dir", str(run), *options]) == 2
    fault_plan.plan = None


@pytest.mark.parametrize("kind", CAUSES)
@pytest.mark.usefixtures("exact")
def test_each_fault_is_one_line_and_the_run_goes_on(whole: Path, tmp_path: Path, kind: str, capsys: Any) -> None:
    failing(ON_POLICY, tmp_path / "run", kind)
    first, *trace = capsys.readouterr().err.splitlines()
    assert first.startswith("rlopt: error: ") and CAUSES[kind] in first
    kept = f"; step 64 is kept: when that is fixed, continue with rlopt resume {tmp_path / 'run'}"
    kept = f"{kept} --env {faulty_env.ID}"
    assert first.endswith(kept) and steps(tmp_path / "run") == [64]
    # Below it, the traceback of the environment, and only that.
    raised = kind in faulty_env.RAISES
    assert bool(trace) == raised
    assert not raised or (trace[0].startswith("Traceback") and "faulty_env.py" in trace[1] and "rlopt/" not in trace[1])
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert_same_result(tmp_path / "run", whole)


@pytest.mark.parametrize("kind", LEGAL)
def test_what_is_only_written_otherwise_gives_the_same_run(whole: Path, tmp_path: Path, kind: str) -> None:
    fault_plan.plan = Plan(kind, 1)
    assert main([*ON_POLICY.split(), "--run-dir", str(tmp_path / "run")]) == 0
    assert_same_result(tmp_path / "run", whole)


@pytest.mark.usefixtures("exact")
def test_a_fault_in_an_evaluation_loses_nothing(whole: Path, tmp_path: Path, capsys: Any) -> None:
    failing(ON_POLICY, tmp_path / "run", "value", at=128 + 5)
    assert "; step 128 is kept" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "run")]) == 0  # the evaluation is played again
    assert_same_result(tmp_path / "run", whole)


def test_a_fault_before_the_first_update_begins_anew(whole: Path, tmp_path: Path, capsys: Any) -> None:
    failing(ON_POLICY, tmp_path / "run", "value", at=5)
    assert "no update was done before: when that is fixed" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert_same_result(tmp_path / "run", whole)


@pytest.mark.parametrize("command", [ON_POLICY, OFF_POLICY])
@pytest.mark.parametrize("kind", ["value", "nan observation"])
def test_where_the_simulator_is_not_kept_fresh_episodes_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str, kind: str
) -> None:
    monkeypatch.setattr(boundary, "KEEPING_SHARE", -1.0)  # what it would be if keeping it took long
    run, normalized = tmp_path / "run", ["--normalize-observations", "true"]
    at, step, end = (PLAN_AT, 64, 192) if command is ON_POLICY else (41, 40, 60)
    failing(" ".join([command, *normalized]), run, kind, at)
    assert "is kept, where fresh episodes begin: when" in capsys.readouterr().err
    last = list_checkpoints(run / "checkpoints")[-1]
    # A reward or observation that is refused has been counted by Stable-Baselines3's loop of off-policy agents.
    assert steps(run)[-1] in (step, step + (command is OFF_POLICY and kind != "value"))
    trees = read_checkpoint(last).trees
    assert all(np.isfinite(wrapper["state"]["obs_rms"]["mean"]).all() for wrapper in trees["env"]["wrappers"][:1])
    if command is OFF_POLICY:
        assert trees["replay"]["pos"] == 40  # every transition before the fault
    assert main(["resume", str(run)]) == 0
    assert "resume: fresh episodes" in capsys.readouterr().out and steps(run)[-1] == end


@pytest.mark.parametrize("kind", ["child", "exit", "sleeps", "text reward", "short observation", "infinite reward"])
def test_off_policy_agents_keep_every_transition(tmp_path: Path, kind: str, capsys: Any) -> None:
    run = tmp_path / "run"
    failing(OFF_POLICY, run, kind, at=41)
    cause = CAUSES[kind].replace("step 86", "step 41")
    assert cause in capsys.readouterr().err.splitlines()[0]
    assert read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees["replay"]["pos"] == 40
    assert main(["resume", str(run)]) == 0 and steps(run)[-1] == 60


@pytest.mark.parametrize(("share", "kept"), [(float("inf"), 1000), (-1.0, 1499)])
def test_an_agent_that_steps_its_environment_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, share: float, kept: int
) -> None:
    monkeypatch.setattr(boundary, "KEEPING_SHARE", share)
    original, taken = RiverSwim.step, []

    def step(self: RiverSwim, action: Any) -> Any:
        taken.append(action)
        if len(taken) == 1500:
            raise ValueError("the river is dry")
        return original(self, action)

    options = "--total-timesteps 2000 --eval-every 0 --checkpoint-every 0"
    command = ["train", "loop", "--env", "rlopt/RiverSwim-v0", *options.split()]
    assert main([*command, "--run-dir", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(RiverSwim, "step", step)
    assert main([*command, "--run-dir", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert "rlopt/RiverSwim-v0 failed in step(): ValueError: the river is dry" in line
    assert f"step {kept:,} is kept" in line
    assert main(["resume", str(tmp_path / "run")]) == 0
    if kept == 1000:
        last = [read_checkpoint(list_checkpoints(tmp_path / n / "checkpoints")[-1]).trees for n in ("run", "whole")]
        assert leaves(dict(last[0]["agent"])) == leaves(dict(last[1]["agent"]))


def test_a_constructor_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    def fail(self: Faulty) -> None:
        raise TypeError("unsupported operand type(s) for +: 'int' and 'str'")

    monkeypatch.setattr(Faulty, "__init__", fail)
    assert main([*OFF_POLICY.split(), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{faulty_env.ID} failed in __init__(): TypeError: unsupported operand" in error
    assert "env_kwargs" not in error
    assert not (tmp_path / "run").exists()


def test_a_close_that_fails_does_not_hide_what_was_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def fail(self: Faulty) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(Faulty, "close", fail)
    failing(OFF_POLICY, tmp_path / "run", "value", at=41)
    error = capsys.readouterr().err
    assert "failed in step(): ValueError" in error
    assert f"warning: {faulty_env.ID} failed in close(): BrokenPipeError: [Errno 32] Broken pipe" in error


def test_a_run_folder_that_is_deleted_is_one_line(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    failing(OFF_POLICY, run, "delete", at=30)
    assert f"rlopt: error: the run folder {run} is gone: it was deleted" in capsys.readouterr().err
    assert not run.exists()


def test_one_of_several_seeds_fails_alone(tmp_path: Path, capsys: Any) -> None:
    fault_plan.plan = Plan("value", 100)
    command = ON_POLICY.replace("--eval-every 128", "--eval-every 0").split()

    def fail_once() -> None:
        fault_plan.plan = None
        raise ValueError("one robot fell")

    faulty_env.RAISES["value"], before = fail_once, faulty_env.RAISES["value"]
    try:
        assert main([*command, "--seeds", "0,1", "--run-dir", str(tmp_path / "runs")]) == 2
    finally:
        faulty_env.RAISES["value"] = before
    said = capsys.readouterr()
    assert "failed: faulty_env:Faulty-v0 (environment" in said.out and "one robot fell" in said.out
    assert said.err.startswith("Traceback") and said.err.rstrip().endswith("ValueError: one robot fell")
    assert sorted(steps(tmp_path / "runs" / name)[-1] for name in ("seed0", "seed1")) == [32, 192]


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize(("kind", "code"), [("segv", -signal.SIGSEGV), ("leaves", 7)])
def test_where_the_process_dies_the_last_checkpoint_stands(tmp_path: Path, kind: str, code: int) -> None:
    command = [*ON_POLICY.replace("--checkpoint-every 1000", "--checkpoint-every 64").split(), "--run-dir", "run"]
    script = (
        f"import fault_plan, faulty_env; from rlopt.cli.main import main; "
        f"fault_plan.plan = fault_plan.Plan({kind!r}, 100); main({command!r})"
    )
    died = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(faulty_env.__file__).parent)},
    )  # fmt: skip
    assert died.returncode == code and steps(tmp_path / "run") == [64]
    assert kind != "segv" or ("Segmentation fault" in died.stderr and "faulty_env.py" in died.stderr)
    assert main(["resume", str(tmp_path / "run")]) == 0 and steps(tmp_path / "run")[-1] == 192


@pytest.mark.parametrize("verb", ["evaluate", "demos record"])
def test_a_fault_where_a_trained_policy_plays(whole: Path, tmp_path: Path, verb: str, capsys: Any) -> None:
    options = {"evaluate": ["--episodes", "2"], "demos record": ["--out", str(tmp_path / "out")]}[verb]
    for kind in ("value", "text reward", "nan observation"):
        fault_plan.plan = Plan(kind, 7)
        command = [*verb.split(), str(whole), "--env", faulty_env.ID, *options]
        assert main(command) == 2
        line, *trace = capsys.readouterr().err.splitlines()
        cause = {"value": "ValueError: simulator lost its way", "nan observation": "the observation is NaN"}
        assert cause.get(kind, CAUSES[kind]) in line and bool(trace) == (kind == "value")


@pytest.mark.parametrize("verb", ["evaluate", "demos record"])
def test_a_policy_that_plays_where_a_step_hangs(whole: Path, tmp_path: Path, verb: str, capsys: Any) -> None:
    fault_plan.plan = Plan("sleeps", 7)
    options = {"evaluate": ["--episodes", "2"], "demos record": ["--out", str(tmp_path / "out")]}[verb]
    assert main([*verb.split(), str(whole), "--env", faulty_env.ID, *options, "--env-timeout", "0.3"]) == 2
    assert "has not returned from step() for 0.3 s" in capsys.readouterr().err


def test_environments_given_in_python_are_checked_too() -> None:
    fault_plan.plan = Plan("short observation", 20)
    settings: dict[str, Any] = {"learning_starts": 5, "compile": "off", "policy_kwargs": {"net_arch": [8]}}
    with pytest.raises(OutcomeError, match=r"^Faulty gave an observation of shape \(1,\).*says \(2,\)"):
        rlopt.SAC("MlpPolicy", Faulty(), **settings).learn(40)


def test_an_environment_may_be_reset_by_a_seed_alone() -> None:
    """Stable-Baselines3 gives options only where there are some."""

    class Old(Faulty):
        def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
            return super().reset(seed=seed)

    settings: dict[str, Any] = {"n_steps": 8, "policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    assert rlopt.MDPO("MlpPolicy", Old(), **settings).learn(16).num_timesteps == 16


@pytest.mark.parametrize(
    ("kind", "how"), [("killed", "ended by SIGKILL"), ("leaves", "ended with exit code 7"), ("value", "printed above")]
)
@pytest.mark.parametrize("dies", [0, 2])
def test_a_worker_process_that_dies_is_named(kind: str, how: str, dies: int) -> None:
    """Of several that were forked the earlier ones hold the pipes of the later ones open."""

    def make(at: int) -> gymnasium.Env[Any, Any]:
        fault_plan.plan = Plan(kind, at)
        return Faulty()

    env = SubprocVecEnv(
        [functools.partial(make, 20 if index == dies else 10**9) for index in range(3)], start_method="fork"
    )
    late = threading.Timer(30, lambda: [process.kill() for process in env.processes])  # rather than wait for ever
    late.start()
    try:
        with pytest.raises(EnvFaultError, match=f"^the process of environment {dies} .*{how}"):
            rlopt.MDPO("MlpPolicy", env, n_steps=32, policy_kwargs={"net_arch": [8]}, device="cpu").learn(192)
    finally:
        late.cancel()
        for process in env.processes:
            process.terminate()
