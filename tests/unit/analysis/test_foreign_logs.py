"""Logs of Stable-Baselines3, RL Zoo, CleanRL, d3rlpy and Weights & Biases beside run folders."""

import json
from collections import OrderedDict
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from scored_runs import scored_runs
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.results_plotter import load_results, ts2xy
from torch.utils.tensorboard import SummaryWriter

from rlopt.analysis.comparison import compare_runs
from rlopt.analysis.curves import EVALUATION, TRAINING
from rlopt.analysis.logs.log import moving_mean, split_name
from rlopt.analysis.logs.read import find_logs, named_logs, read_curves
from rlopt.analysis.plotting import plot_runs
from rlopt.cli.main import main
from rlopt.errors import ConfigError, RloptError, RunError, UnknownNameError


@pytest.fixture(scope="module")
def sb3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two environments of a real PPO of Stable-Baselines3, with everything that it can write."""
    folder = tmp_path_factory.mktemp("logs")
    env = make_vec_env("CartPole-v1", 2, seed=0, monitor_dir=str(folder / "PPO_3"))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=0)
    model.set_logger(configure(str(folder / "logger_1"), ["csv", "tensorboard"]))
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", 1, seed=1),
        n_eval_episodes=3,
        eval_freq=64,
        log_path=str(folder / "PPO_3"),
        verbose=0,
    )
    model.learn(256, callback=evaluation)
    env.close()
    return folder


def test_the_monitor_files_give_what_sb3_reads_from_them(sb3: Path) -> None:
    steps, returns = ts2xy(load_results(str(sb3 / "PPO_3")), "timesteps")
    key, (curve,) = read_curves([sb3 / "PPO_3"], TRAINING)
    assert (key, curve.agent, curve.env, curve.settings["seed"]) == (TRAINING, "PPO (SB3)", "CartPole-v1", 3)
    assert curve.x.tolist() == steps.tolist()
    assert curve.y.tolist() == pytest.approx(
        [returns[max(0, end - 100) : end].mean() for end in range(1, len(steps) + 1)]
    )
    _, (clock,) = read_curves([sb3 / "PPO_3"], TRAINING, "seconds")
    assert len(clock.x) == len(curve.x) and clock.x[0] > 0


def test_the_evaluations_are_the_default(sb3: Path) -> None:
    data = np.load(sb3 / "PPO_3" / "evaluations.npz")
    key, (curve,) = read_curves([sb3 / "PPO_3"])
    assert key == EVALUATION
    assert (curve.x.tolist(), curve.y.tolist()) == (data["timesteps"].tolist(), data["results"].mean(1).tolist())


def test_sb3_s_loggers_say_the_same_as_csv_and_as_events(sb3: Path, tmp_path: Path) -> None:
    (events,) = (sb3 / "logger_1").glob("events*")
    (tmp_path / "sac_2").mkdir()
    (tmp_path / "sac_2" / events.name).write_bytes(events.read_bytes())
    for key in (EVALUATION, TRAINING, "train/loss"):
        _, (both, alone) = read_curves([sb3 / "logger_1", tmp_path / "sac_2"], key, env="CartPole-v1")
        assert both.x.tolist() == alone.x.tolist() and both.y == pytest.approx(alone.y, rel=1e-5)
    assert alone.agent == "sac (SB3)"
    with pytest.raises(ConfigError, match="does not say its environment: add --env ID"):
        read_curves([sb3 / "logger_1"])


def test_rl_zoo_s_folders_say_agent_seed_and_budget(sb3: Path, tmp_path: Path) -> None:
    run = tmp_path / "zoo" / "ppo" / "CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    for file in (sb3 / "PPO_3").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    args = OrderedDict(algo="ppo", env="CartPole-v1", n_timesteps=-1, seed=7, uuid=False)
    config = OrderedDict([("batch_size", 256), ("n_timesteps", 1e5), ("policy_kwargs", {"net_arch": [64]})])
    for name, values in (("args", args), ("config", config)):
        (run / "CartPole-v1" / f"{name}.yml").write_text(yaml.dump(values))  # as RL Zoo does
    assert named_logs([tmp_path / "zoo"]) == [run]
    _, (curve,) = read_curves(named_logs([str(tmp_path / "zoo" / "*")]))
    assert (curve.agent, curve.env) == ("ppo (RL Zoo)", "CartPole-v1")
    assert curve.settings == {"batch_size": 256, "seed": 7, "total_timesteps": 100_000}


def cleanrl(folder: Path, seed: int, returns: list[float]) -> Path:
    """A run as CleanRL's scripts write it, with the same writer."""
    path = folder / f"CartPole-v1__dqn__{seed}__1700000000"
    writer = SummaryWriter(str(path))
    rows = [("env_id", "CartPole-v1"), ("exp_name", "dqn"), ("seed", seed), ("learning_rate", 2.5e-4), ("track", False)]
    writer.add_text("hyperparameters", "|param|value|\n|-|-|\n" + "\n".join(f"|{key}|{value}|" for key, value in rows))
    for index, value in enumerate(returns):
        writer.add_scalar("charts/episodic_return", value, 10 * (index + 1))
    writer.close()
    return path


def test_cleanrl_s_episodes_become_a_moving_mean(tmp_path: Path) -> None:
    returns = [float(value) for value in np.random.default_rng(0).integers(0, 500, 150)]
    path = cleanrl(tmp_path, 5, returns)
    notes: list[str] = []
    key, (curve,) = read_curves(named_logs([tmp_path]), report=notes.append)
    assert key == TRAINING and notes == [f"training returns are used for all: {path} has no evaluations"]
    assert (curve.agent, curve.env, curve.settings["seed"]) == ("dqn (CleanRL)", "CartPole-v1", 5)
    assert curve.settings["learning_rate"] == 2.5e-4
    assert curve.x.tolist() == [10.0 * (index + 1) for index in range(150)]
    assert curve.y[[0, 1, 149]] == pytest.approx([returns[0], sum(returns[:2]) / 2, sum(returns[50:]) / 100])


def test_d3rlpy_s_files_have_no_header_and_count_gradient_steps(tmp_path: Path) -> None:
    run = tmp_path / "d3rlpy_logs" / "CQL_20240102030405"
    run.mkdir(parents=True)
    (run / "params.json").write_text(json.dumps({"config": {"type": "cql", "params": {"batch_size": 256}}}))
    (run / "environment.csv").write_text("1,1000,10.5\n2,2000,20.5\n3,30")  # the last row was cut
    (run / "critic_loss.csv").write_text("1,1000,0.5\n")
    key, (curve,) = read_curves(named_logs([tmp_path / "d3rlpy_logs"]), env="hopper-medium-v2")
    assert (key, curve.agent, curve.unit, curve.settings["batch_size"]) == (
        EVALUATION,
        "CQL (d3rlpy)",
        "gradient steps",
        256,
    )
    assert (curve.x.tolist(), curve.y.tolist()) == ([1000, 2000], [10.5, 20.5])
    with pytest.raises(ConfigError, match=r"add --env ID \(to compare, --mix-budgets"):
        read_curves([run])
    runs = scored_runs(tmp_path, "mdpo", [1.0], env="hopper-medium-v2")
    with pytest.raises(ConfigError, match=r"counts environment steps and .* gradient steps"):
        compare_runs([*runs, run], env="hopper-medium-v2")


def test_a_panel_that_wandb_exported_holds_several_runs(tmp_path: Path) -> None:
    ours, theirs = "mdpo-Hopper-v5-seed3-20260101T000000Z", "Hopper-v5__ppo__1__1700000000"
    names = [f"{run} - eval/mean_reward{end}" for run in (ours, theirs) for end in ("", "__MIN", "__MAX")]
    (tmp_path / "panel.csv").write_text(
        ",".join(f'"{name}"' for name in ["global_step", *names])
        + '\n"100","1","0","2","","",""\n"200","3","3","3","5","5","5"\n'
    )
    key, curves = read_curves([tmp_path / "panel.csv"])
    assert key == EVALUATION
    found = [(curve.agent, curve.env, curve.settings["seed"], curve.x.tolist(), curve.y.tolist()) for curve in curves]
    assert found == [("mdpo (W&B)", "Hopper-v5", 3, [100, 200], [1, 3]), ("ppo (W&B)", "Hopper-v5", 1, [200], [5])]


def test_only_corl_s_hashes_make_seeds(tmp_path: Path) -> None:
    names = ["b-1a2b3c4d - score", "b-99ff00aa - score"]
    (panel := tmp_path / "panel.csv").write_text(",".join(["Step", *names]) + "\n1000,1,2\n2000,4,5\n")
    assert len({curve.agent for curve in read_curves([panel], "score", env="Hopper-v5")[1]}) == 2


def test_corl_s_runs_are_seeds_and_scores_are_no_returns(tmp_path: Path) -> None:
    ids = ("TD3-BC-hopper-1a2b3c4d", "TD3-BC-hopper-99ff00aa", "IQL-hopper-00000001")
    names = [f"{run} - d4rl_normalized_score" for run in ids]
    (panel := tmp_path / "panel.csv").write_text(",".join(["Step", *names]) + "\n1000,1,2,3\n2000,4,5,6\n")
    _, curves = read_curves([panel], "d4rl_normalized_score", env="hopper-medium-v2")
    agents = [(curve.agent, curve.unit) for curve in curves]
    assert agents[:2] == [("TD3-BC-hopper (W&B)", "gradient steps")] * 2 and "IQL-hopper" in agents[2][0]
    assert len({curve.settings["seed"] for curve in curves}) == 3
    (run,) = scored_runs(tmp_path, "td3_bc", [1.0], env="hopper-medium-v2")
    with pytest.raises(RunError, match=r"panel.csv/TD3.* it has d4rl_normalized_score; name one with --key") as said:
        compare_runs([run, panel], env="hopper-medium-v2")
    assert str(run) not in str(said.value)


def test_the_history_of_one_wandb_run_counts_environment_steps(tmp_path: Path) -> None:
    (tmp_path / "sac.csv").write_text("_step,_runtime,global_step,rollout/ep_rew_mean\n0,1.5,1000,2\n1,3,2000,4\n")
    _, (curve,) = read_curves([tmp_path / "sac.csv"], "rollout/ep_rew_mean", env="Hopper-v5")
    assert (curve.x.tolist(), curve.y.tolist()) == ([1000, 2000], [2, 4])
    _, (clock,) = read_curves([tmp_path / "sac.csv"], "rollout/ep_rew_mean", "seconds", env="Hopper-v5")
    assert clock.x.tolist() == [1.5, 3]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="none of the columns global_step"):
        read_curves([tmp_path / "other.csv"], env="Hopper-v5")


def test_they_are_compared_with_our_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, last in enumerate([30.0, 40.0]):
        cleanrl(tmp_path / "peer", seed, [last] * 30)
    ours = scored_runs(tmp_path, "mdpo", [50.0, 60.0], env="CartPole-v1")
    for run in ours:
        rows = "\n".join(f"{step},{step / 10}" for step in (100, 200, 300))
        (run / "progress.csv").write_text(f"step,rollout/ep_rew_mean\n{rows}\n")
    out = tmp_path / "both.pdf"
    command = ["compare", *map(str, ours), str(tmp_path / "peer"), "--out", str(out), "--width", "icml-column"]
    assert main(command) == 2  # its parameters, of which the total is one, are few here
    assert "does not say how many steps it was to take: give --mix-budgets" in capsys.readouterr().err
    assert main([*command, "--mix-budgets"]) == 0
    table = capsys.readouterr().out
    assert "dqn (CleanRL)" in table and "35.0" in table and "note: training returns are used" in table
    assert out.read_bytes().startswith(b"%PDF")


def test_pictures_are_as_wide_as_a_column(tmp_path: Path) -> None:
    pdf, svg = tmp_path / "a.pdf", tmp_path / "a.svg"
    run = cleanrl(tmp_path / "peer", 0, [1.0, 2.0])
    plot_runs([run], pdf, width="ieee-column")
    plot_runs([run], svg, width="2.5")
    assert f"/MediaBox [ 0 0 {3.5 * 72:.0f} ".encode() in pdf.read_bytes()
    assert f'width="{2.5 * 72:.0f}pt"' in svg.read_text()
    with pytest.raises(UnknownNameError, match="neurips"):
        plot_runs([run], pdf, width="neurip")
    with pytest.raises(ConfigError, match="from 1 to 40"):
        plot_runs([run], pdf, width=0.1)


def test_a_mistake_is_one_line(sb3: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"key of .*logger_1 .*rollout/ep_rew_mean"):
        read_curves([sb3 / "logger_1"], "rollout/ep_rew_men", env="CartPole-v1")
    with pytest.raises(RunError, match="does not say the time of evaluation"):
        read_curves([sb3 / "PPO_3"], EVALUATION, "seconds")
    (tmp_path / "a_1").mkdir()
    for name, content in (
        ("monitor.csv", b"#{1\nr,l,t\n"),
        ("evaluations.npz", b"PK\x03\x04"),
        ("x.events.out.tfevents.1", b"\1" * 99),
    ):
        (tmp_path / "a_1" / name).write_bytes(content)
        with pytest.raises(RloptError) as said:
            read_curves([tmp_path / "a_1"], env="Hopper-v5")
        assert "\n" not in str(said.value) and str(tmp_path) in str(said.value)
        (tmp_path / "a_1" / name).unlink()
    assert find_logs(tmp_path) == []


def test_names_and_moving_means(tmp_path: Path) -> None:
    names = {"PPO_1": ("PPO", 1), "sac-seed3": ("sac", 3), "seed2": ("group", 2), "Hopper-v4": ("Hopper-v4", None)}
    assert {name: split_name(tmp_path / "group" / name) for name in names} == names
    values = np.arange(10.0) ** 2
    expected = [values[max(0, end - 3) : end].mean() for end in range(1, 11)]
    assert moving_mean(values, 3) == pytest.approx(expected)


def test_no_shape_that_an_event_claims_is_believed(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    event = Event(step=1, wall_time=1.0)
    value = event.summary.value.add(tag="rollout/ep_rew_mean")
    value.tensor.dtype = 1
    value.tensor.float_val.append(3.0)
    value.tensor.tensor_shape.dim.add(size=2**40)  # a reader that fills it takes all memory
    writer = EventFileWriter(str(tmp_path / "ppo_1"))
    writer.add_event(event)
    writer.close()
    _, (curve,) = read_curves([tmp_path / "ppo_1"], TRAINING, env=gymnasium.spec("CartPole-v1").id)
    assert curve.y.tolist() == [3.0]
