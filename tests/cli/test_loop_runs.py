"""LOOP and its peers by ``rlopt train``, ``resume``, ``evaluate`` and ``plan``, on tasks whose answers are known."""

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.analysis.curves import group_curves, read_run_curve
from rlopt.average_reward import evaluate_policy
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint, write_checkpoint
from rlopt.cli.main import main
from rlopt.errors import CheckpointError
from rlopt.registry import AGENTS, resolve

FEATURES = ("linear_loop", "fopo", "olsvi_fh")
CONTINUING = [name for name, spec in AGENTS.items() if spec.algorithm.startswith("rlopt.agents.loop.")]


def train(run: Path, agent: str, steps: int, *flags: str) -> None:
    env = "rlopt/RandomLinear-v0" if agent in FEATURES else "rlopt/RiverSwim-v0"
    command = ["train", agent, "--env", env, "--run-dir", str(run), "--seed", "3"]
    command += ["--total-timesteps", str(steps), "--checkpoint-every", "1000", "--eval-every", "0", *flags]
    assert main(command) == 0


def final(run: Path) -> dict[str, Any]:
    return read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees


def test_the_peers_of_loop_are_agents() -> None:
    peers = {"ucrl2", "ucrl3", "kl_ucrl", "pmevi_dt", "imed_rl", "psrl", "tsde", "fopo", "olsvi_fh"}
    peers |= {"differential_q", "rvi_q", "optimistic_q"}
    assert set(CONTINUING) == {"loop", "linear_loop", "mle_loop"} | peers


@pytest.mark.parametrize("agent", CONTINUING)
def test_a_resumed_run_is_the_run_that_was_never_stopped(agent: str, tmp_path: Path) -> None:
    horizon = ("--horizon", "2300") if hasattr(resolve(AGENTS[agent].config)(), "horizon") else ()
    train(tmp_path / "whole", agent, 2300, *horizon)
    train(tmp_path / "parts", agent, 1200, *horizon)
    assert main(["resume", str(tmp_path / "parts"), "--total-timesteps", "2300"]) == 0
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole["agent"]["num_timesteps"] == 2300
    # Without a confidence level the horizon has no use, and says only how long the first call was to be.
    ignored = () if horizon else ("horizon",)
    for name in set(whole["agent"]) - set(ignored):
        np.testing.assert_equal(parts["agent"][name], whole["agent"][name])
    np.testing.assert_equal(parts["env"], whole["env"])
    assert type(rlopt.load(tmp_path / "parts")) is resolve(AGENTS[agent].algorithm)


def test_run_folder_evaluation_and_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(run, "loop", 3000, "--log-every", "1000", "--eval-every", "3000")
    rows = list(csv.DictReader((run / "progress.csv").open()))
    assert [int(row["step"]) for row in rows] == [1000, 2000, 3000]
    assert 0 < float(rows[-1]["rollout/average_reward"]) < 0.6
    assert float(rows[-1]["loop/discrepancy"]) < float(rows[-1]["loop/threshold"])
    model = rlopt.load(run)
    assert isinstance(model, rlopt.LOOP) and model.num_timesteps == 3000
    mdp = gymnasium.make("rlopt/RiverSwim-v0").unwrapped.mdp  # type: ignore[attr-defined]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes", "8"]) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert result["mean_length"] == 1000
    # Its start-up costs less than the span; 8 stretches have a deviation of .75 sqrt(1000 / 8).
    gain = evaluate_policy(mdp, model.policy).gain
    assert 1000 * gain - mdp.span - 30 < result["mean"] < 1000 * gain + 30
    again = rlopt.load(run / "checkpoints" / "step-000000002000", env=rlopt.make_env("rlopt/RiverSwim-v0"))
    assert again.learn(100, reset_num_timesteps=False).num_timesteps == 2100


def test_a_damaged_agent_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", "tsde", 1000)
    checkpoint = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    for name, value in (("class", "Popen"), ("state", 99), ("data", {}), ("plans", [3])):
        trees = {**checkpoint.trees, "agent": {**checkpoint.trees["agent"], name: value}}
        path = write_checkpoint(tmp_path / name, 1000, trees, checkpoint.metadata)
        with pytest.raises(CheckpointError, match="malformed or of another version"):
            rlopt.load(path)


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", "loop", 1000)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["agent_config"]["planner"] = "ellipsoid"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["resume", str(tmp_path / "run"), "--total-timesteps", "2000"]) == 2


@pytest.mark.parametrize(
    ("agent", "flags", "message"),
    [
        ("tdse", [], "did you mean 'tsde'"),
        ("tsde", ["--beta-scale", "1"], "unknown option '--beta-scale'"),
        ("loop", ["--agent-kind", "tsde"], "unknown option '--agent-kind'"),
        ("loop", ["--n-envs", "2"], "one environment"),
        ("loop", ["--seeds", "0..3"], "give --seed"),
        ("loop", ["--normalize-rewards", "true"], "--normalize-rewards has no effect"),
        ("rvi_q", ["--epsilon", "2"], "[0, 1]"),
    ],
)
def test_flags_that_make_no_sense(
    agent: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", agent, "--env", "rlopt/RiverSwim-v0", *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_episodic_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "loop", "--env", "FrozenLake-v1", "--span", "1", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 2
    assert "tasks that never end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("agent", "kind", "given"),
    [
        ("loop", "value", {"beta_scale": 0.01, "procedure": "paper"}),
        ("mle_loop", "mle", {}),
        ("linear_loop", "linear", {}),
        ("tsde", "tsde", {}),
    ],
)
def test_a_run_folder_of_version_0_1_is_read(agent: str, kind: str, given: dict[str, Any], tmp_path: Path) -> None:
    """There LOOP and its peers were one agent, ``loop``, its kind a setting, and settings that were not given None."""
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    train(tmp_path / "run", agent, 1200, *flags)
    train(tmp_path / "whole", agent, 2300, *flags)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings = {"agent_kind": kind, **dict.fromkeys(("beta_scale", "prior", "epsilon", "span"), None)}
    settings |= {name: value for name, value in given.items() if name != "procedure"}
    config |= {"agent": "loop", "agent_config": settings}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    checkpoint = read_checkpoint(path)
    write_checkpoint(path.parent, checkpoint.step, checkpoint.trees, {**checkpoint.metadata, "agent": "loop"})
    assert type(rlopt.load(tmp_path / "run")) is resolve(AGENTS[agent].algorithm)
    curve = read_run_curve(tmp_path / "run", "rollout/average_reward")
    assert curve.agent == agent and "agent_kind" not in curve.settings and "prior" not in curve.settings
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1"]) == 0
    if agent == "tsde":  # the others' confidence levels are meant for the steps of the first call
        assert main(["resume", str(tmp_path / "run"), "--total-timesteps", "2300"]) == 0
        np.testing.assert_equal(final(tmp_path / "run")["agent"]["data"], final(tmp_path / "whole")["agent"]["data"])
        assert json.loads((tmp_path / "run" / "config.json").read_text())["agent"] == "tsde"


def test_plots_keep_agents_and_environments_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, agent, states in (("a", "loop", 6), ("b", "tsde", 6), ("c", "loop", 12)):
        train(tmp_path / name, agent, 300, "--log-every", "100", "--env-kwargs", json.dumps({"n_states": states}))
    runs = [str(tmp_path / name) for name in "abc"]
    capsys.readouterr()
    assert main(["plot", *runs, "--out", str(tmp_path / "curves.svg")]) == 2
    assert "plot --key rollout/average_reward" in capsys.readouterr().err
    assert main(["plot", *runs, "--key", "rollout/average_reward", "--out", str(tmp_path / "curves.svg")]) == 0
    groups = group_curves([read_run_curve(Path(run), "rollout/average_reward") for run in runs])
    assert [(group.env, group.label) for group in groups] == [
        ('rlopt/RiverSwim-v0 {"n_states":12}', "loop"),
        ('rlopt/RiverSwim-v0 {"n_states":6}', "loop"),
        ('rlopt/RiverSwim-v0 {"n_states":6}', "tsde"),
    ]


def test_deep_loop_names_itself_where_actions_are_discrete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "deep_loop", "--env", "rlopt/RiverSwim-v0", "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "DeepLOOP needs a continuous (Box) action space" in error and "rlopt.DifferentialDQN" in error


# ---- arguments of the environment


def test_env_kwargs_are_kept_by_the_run_and_all_that_comes_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(run, "loop", 1000, "--env-kwargs", '{ "n_states": 12}', "--horizon", "1500")
    config = json.loads((run / "config.json").read_text())
    assert json.loads(config["run"]["env_kwargs"]) == {"n_states": 12}
    assert rlopt.load(run).observation_space.n == 12
    assert main(["resume", str(run), "--total-timesteps", "1500"]) == 0
    agent = rlopt.load(run)
    assert isinstance(agent, rlopt.LOOP) and agent.observation_space.n == 12 and agent.num_timesteps == 1500
    # The run in one go visits the same states: the resumed half went on with the twelve of them.
    train(tmp_path / "whole", "loop", 1500, "--env-kwargs", '{"n_states": 12}', "--horizon", "1500")
    np.testing.assert_equal(final(run)["agent"], final(tmp_path / "whole")["agent"])
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["env_settings"]["env_kwargs"] == {"n_states": 12}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes", "1", "--env-kwargs", '{"n_states": 6}']) == 2
    assert "Discrete" in capsys.readouterr().err


def test_env_kwargs_come_from_a_preset_as_a_mapping(tmp_path: Path) -> None:
    preset = tmp_path / "long.yaml"
    preset.write_text("env: rlopt/RiverSwim-v0\nenv_kwargs:\n  n_states: 7\ntotal_timesteps: 50\n")
    assert (
        main(["train", "loop", "--preset", str(preset), "--run-dir", str(tmp_path / "run"), "--eval-every", "0"]) == 0
    )
    assert rlopt.load(tmp_path / "run").observation_space.n == 7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("n_states=12", "env_kwargs = n_states=12 is not a JSON object, such as '{\"n_states\": 12}'"),
        ("[12]", "is not a JSON object"),
        ('{"n_states": NaN}', "is not a JSON object"),
        ('{"n_states": 3, "n_states": 4}', "is not a JSON object"),
        ('{"n_state": 12}', "does not take env_kwargs"),
        ('{"n_states": 1}', "at least 3"),
        ('{"n_states": "twelve"}', "twelve"),
    ],
)
def test_bad_env_kwargs_are_told_in_one_line(
    value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "loop",
        "--env",
        "rlopt/RiverSwim-v0",
        "--run-dir",
        str(tmp_path / "run"),
        "--env-kwargs",
        value,
    ]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# ---- plan


def test_plan_prints_the_exact_solution(capsys: pytest.CaptureFixture[str]) -> None:
    mdp = gymnasium.make("rlopt/RiverSwim-v0", n_states=8).unwrapped.mdp  # type: ignore[attr-defined]
    command = ["plan", "--env", "rlopt/RiverSwim-v0", "--env-kwargs", '{"n_states": 8}']
    for method in ("policy-iteration", "value-iteration", "linear-program"):
        assert main([*command, "--method", method, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["gain"] == pytest.approx(mdp.gain, abs=1e-8) and record["span"] == pytest.approx(mdp.span)
        assert record["policy"] == [1] * 8 and sum(record["stationary_distribution"]) == pytest.approx(1)
        np.testing.assert_allclose(record["bias"], mdp.bias, atol=1e-6)
    assert main([*command, "--rows", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"{mdp.gain:.8g}" in printed and f"{mdp.span:.8g}" in printed and "5 more states" in printed


def test_plan_refuses_a_process_whose_rewards_a_wrapper_changes(capsys: pytest.CaptureFixture[str]) -> None:
    def dearer(**settings: Any) -> gymnasium.Env[Any, Any]:
        plain = gymnasium.make("rlopt/RiverSwim-v0", **settings)
        return gymnasium.wrappers.TransformReward(plain, lambda reward: 10 * reward)  # type: ignore[arg-type]

    gymnasium.register("DearerRiverSwim-v0", dearer)
    try:
        assert main(["plan", "--env", "DearerRiverSwim-v0"]) == 2
        assert "has a TransformReward around it" in capsys.readouterr().err
    finally:
        del gymnasium.registry["DearerRiverSwim-v0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "rlopt/RiverSwm-v0"], "did you mean 'rlopt/RiverSwim-v0'"),
        (["--env", "Pendulum-v1"], "has no exact process"),
        (["--env", "rlopt/RiverSwim-v0", "--method", "policy-iteratoin"], "did you mean 'policy-iteration'"),
        (["--env", "rlopt/RiverSwim-v0", "--env-kwargs", "{n: 3"], "is not a JSON object"),
        (["--env", "rlopt/RiverSwim-v0", "--env-kwargs", "[3]"], "such as '{\"n_states\": 12}'"),
        (["--env", "rlopt/RiverSwim-v0", "--env-kwargs", '{"length": 3}'], "does not take env_kwargs"),
        (["--env", "rlopt/RiverSwim-v0", "--env-kwargs", '{"n_states": 1}'], "at least 3"),
    ],
)
def test_plan_says_what_is_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err
