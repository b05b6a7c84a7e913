"""Runs that learn from a data set, through the run folder: stopped and continued exactly, evaluated, refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from d4rl_files import gym_arrays, maze2d_rollout, write_file
from offline_data import corridor, pendulum
from runs import leaves

import rlopt
from rlopt.agents.imitation.config import SQILConfig
from rlopt.agents.offline.run import complete
from rlopt.checkpoint.choose import environment_settings
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.flags import parse_training
from rlopt.cli.main import main
from rlopt.data import Dataset, load_dataset, write_d4rl
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.names import D4RL_NAMES, gymnasium_id
from rlopt.errors import ConfigError, DataError
from rlopt.optim.compiled_step import compiler_found
from rlopt.registry import agent_spec, resolve
from rlopt.runs.demonstrations import demonstrations
from rlopt.runs.multi_seed import train_seeds
from rlopt.runs.train import resume, train
from rlopt.settings.fields import from_mapping
from rlopt.settings.run import RunConfig
from rlopt.storage.tree import Tree

SETTINGS = {"net_arch": [8, 8], "batch_size": 16, "validation_fraction": 0.3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pendulum(1000).save(tmp_path_factory.mktemp("data") / "pendulum")


def run_settings(folder: Path, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "env": "Pendulum-v1",
        "total_timesteps": 320,
        "checkpoint_every": 100,
        "keep_checkpoints": 5,
        "eval_every": 200,
        "eval_episodes": 2,
        "log_every": 100,
        "device": "cpu",
        "run_dir": str(folder),
        "normalize_observations": True,
    }
    return RunConfig(**{**base, **changes})


def agent_settings(agent: str, data: Path, **changes: Any) -> Any:
    values = {**SETTINGS, "dataset": str(data), **changes}
    return from_mapping(resolve(agent_spec(agent).config), values, "test")


@pytest.mark.parametrize(
    ("agent", "choice"),
    [
        pytest.param("td3_bc", "on", marks=pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")),
        ("iql", "off"),
    ],
)
def test_seeds_together_are_the_seeds_alone(agent: str, choice: str, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_timesteps": 150, "eval_every": 0, "checkpoint_every": 0, "log_every": 50}
    settings = agent_settings(agent, data, compile=choice)
    together = train_seeds(agent, run_settings(tmp_path / "all", seeds="1,2", num_threads=2, **options), settings)
    assert together.exit_code == 0
    alone = tmp_path / "alone"
    train(agent, run_settings(alone, seed=2, num_threads=1, **options), settings)  # 1 is the one that compiles
    first, ours, theirs = (
        leaves(networks(path)) for path in (tmp_path / "all" / "seed1", tmp_path / "all" / "seed2", alone)
    )
    assert sum(isinstance(leaf, tuple) for leaf in theirs.values()) > 10  # tensors
    assert ours == theirs != first


def networks(folder: Path) -> dict[str, Tree]:
    trees = read_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).trees
    return {f"{kind}/{name}": part for kind, parts in trees["networks"].items() for name, part in parts.items()}


def assert_same_files(first: Path, second: Path) -> None:
    """The last checkpoints hold the same tensors, byte for byte; the logs the same rows but for clock times."""
    last = [list_checkpoints(folder / "checkpoints")[-1] for folder in (first, second)]
    assert last[0].name == last[1].name
    tensors = sorted(file.name for file in last[0].glob("*.safetensors"))
    assert tensors
    for name in tensors:
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name
    assert (first / "evaluations.csv").read_text() == (second / "evaluations.csv").read_text()


def stopped_and_continued(agent: str, data: Path, tmp_path: Path, **changes: Any) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(agent, run_settings(whole), agent_settings(agent, data, **changes))
    shutil.copytree(whole, stopped)
    for checkpoint in list_checkpoints(stopped / "checkpoints"):
        if checkpoint.name > "step-000000000200":
            shutil.rmtree(checkpoint)
    torch.manual_seed(99)  # a new process has other random states
    np.random.seed(99)
    assert resume(stopped).step == 320
    assert_same_files(whole, stopped)


@pytest.mark.parametrize("agent", ["td3_bc", "iql", "cql"])
def test_a_run_is_continued_bit_for_bit(agent: str, data: Path, tmp_path: Path) -> None:
    changes = {"n_actions": 2, "lagrange_gap": 1.0} if agent == "cql" else {}
    stopped_and_continued(agent, data, tmp_path, **changes)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler: torch.compile cannot be tried")
def test_a_compiled_run_is_continued_bit_for_bit(data: Path, tmp_path: Path) -> None:
    stopped_and_continued("td3_bc", data, tmp_path, compile="on")


def test_evaluations_leave_the_learner_as_it_was(data: Path, tmp_path: Path) -> None:
    for name, every in (("often", 100), ("never", 0)):
        train(
            "awac", run_settings(tmp_path / name, total_timesteps=200, eval_every=every), agent_settings("awac", data)
        )
    often, never = networks(tmp_path / "often"), networks(tmp_path / "never")
    assert often.keys() == never.keys()
    for key, tensor in often["modules/policy"].items():
        assert torch.equal(tensor, never["modules/policy"][key]), key


def test_a_run_folder_gives_the_model_back(data: Path, tmp_path: Path) -> None:
    result = train("bc", run_settings(tmp_path / "run"), agent_settings("bc", data))
    model = rlopt.load(tmp_path / "run", device="cpu")
    assert type(model).__name__ == "BC" and model.num_timesteps == result.step == 320
    observations = Dataset.load(data).split(0.3, seed=0)[0].observations
    assert isinstance(observations, np.ndarray)
    np.testing.assert_allclose(model.policy.observation_mean, observations.mean(axis=0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="learns from data and has none"):
        model.learn(10)
    model.set_dataset(data)
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 330


def test_the_run_goes_on_only_with_its_own_data(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(data, own)
    train("bc", run_settings(tmp_path / "run"), agent_settings("bc", own))
    pendulum(1000, seed=7).save(own)
    with pytest.raises(ConfigError, match="trained on other data"):
        resume(tmp_path / "run", total_timesteps=600)


def test_a_run_goes_on_with_its_data_in_another_place(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now, run = tmp_path / "before", tmp_path / "now", tmp_path / "run"
    shutil.copytree(data, before)
    train("bc", run_settings(run), agent_settings("bc", before))
    before.rename(now)
    assert main(["resume", str(run), "--total-timesteps", "500"]) == 2
    assert main(["resume", str(run), "--total-timesteps", "500", "--data", str(now)]) == 0
    assert main(["resume", str(run), "--total-timesteps", "550"]) == 0, "the new place is remembered"
    pendulum(1000, seed=7).save(tmp_path / "others")
    assert main(["resume", str(run), "--total-timesteps", "600", "--data", str(tmp_path / "others")]) == 2
    assert "trained on other data" in capsys.readouterr().err


def test_several_environments_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "bc", "--dataset", str(data), "--n-envs", "4"]) == 2
    assert "takes no environment steps" in capsys.readouterr().err


def test_validation_losses_are_logged(data: Path, tmp_path: Path) -> None:
    train("td3_bc", run_settings(tmp_path / "run"), agent_settings("td3_bc", data))
    header, first, *_ = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["validation/bc_loss"]) > 0 and float(row["validation/critic_loss"]) > 0
    assert row["train/n_updates"] == "100"


def test_the_environment_comes_from_the_data(data: Path, tmp_path: Path) -> None:
    config = resolve(agent_spec("td3_bc").config)
    run, settings = parse_training("td3_bc", config, ["--dataset", str(data)])
    assert run.env == "Pendulum-v1" and run.normalize_observations
    assert settings.dataset == str(data.resolve())
    run, _ = parse_training(
        "td3_bc", config, ["--dataset", str(data), "--env", "Pendulum-v0", "--no-normalize-observations"]
    )
    assert run.env == "Pendulum-v0" and not run.normalize_observations
    with pytest.raises(ConfigError, match="add --dataset"):
        parse_training("td3_bc", config, [])
    with pytest.raises(DataError, match="does not exist"):
        parse_training("td3_bc", config, ["--dataset", str(tmp_path / "nothing")])


def test_the_first_episodes_alone_are_cloned(data: Path, tmp_path: Path) -> None:
    two = Demonstrations.load(data).trajectories(2).save(tmp_path / "two")
    short = {"total_timesteps": 20, "eval_every": 0, "checkpoint_every": 0}
    learned = []
    for name, source, n_demos in (("asked", data, 2), ("cut", two, None), ("all", data, None)):
        settings = agent_settings("bc", source, n_demos=n_demos, validation_fraction=0.0)
        train("bc", run_settings(tmp_path / name, **short), settings)
        trees = read_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]).trees
        learned.append(leaves(trees["networks"]))
    assert learned[0] == learned[1] != learned[2]
    with pytest.raises(DataError, match="99 demonstrations were asked for and there are"):
        train("bc", run_settings(tmp_path / "more", **short), agent_settings("bc", data, n_demos=99))


def test_an_environment_that_cannot_be_made_is_not_needed_without_evaluations(data: Path, tmp_path: Path) -> None:
    run = run_settings(tmp_path / "run", env="NoSuchEnv-v0")
    with pytest.raises(ConfigError, match="--eval-every 0"):
        train("bc", run, agent_settings("bc", data))
    moved = tmp_path / "elsewhere"
    whole = Dataset.load(data)
    halved = Dataset(**{**whole.columns(), "actions": whole.actions / 2}, metadata=whole.metadata)
    halved.save(moved)
    run = run_settings(tmp_path / "run", env="NoSuchEnv-v0", eval_every=0, total_timesteps=100)
    assert train("bc", run, agent_settings("bc", moved)).step == 100


def test_data_of_another_environment_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Pendulum-v1"):
        train("bc", run_settings(tmp_path / "run", env="rlopt/RandomTarget-v0"), agent_settings("bc", data))


def test_another_action_repeat_than_the_recorded_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recorded with action repeat 1, but the run has 4: give --action-repeat 1"):
        train("bc", run_settings(tmp_path / "run", action_repeat=4), agent_settings("bc", data))
    config = resolve(agent_spec("bc").config)
    with pytest.raises(ConfigError, match="recorded with action repeat 1, but the run has 4"):
        parse_training("bc", config, ["--dataset", str(data), "--action-repeat", "4"])
    assert not (tmp_path / "run").exists()


def test_another_environment_that_fits_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_settings(tmp_path / "run", env="NoSuchEnv-v1", eval_every=0, total_timesteps=100)
    whole = Dataset.load(data)
    halved = Dataset(**{**whole.columns(), "actions": whole.actions / 2}, metadata=whole.metadata)
    train("bc", run, agent_settings("bc", halved.save(tmp_path / "halved")))
    said = capsys.readouterr().out.splitlines()
    assert said.count("note: the data set is of Pendulum-v1; the run is evaluated in NoSuchEnv-v1") == 1


def test_memory_that_is_not_there_is_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", str(data), "--eval-every", "0", "--run-dir", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "bc", *flags, "--batch-size", "10000000000000"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("rlopt: error: not enough memory (") and said.endswith("networks or data")


def test_a_learner_without_data_and_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="TD3BC was given neither a data set nor an environment"):
        rlopt.TD3BC("MlpPolicy", None)


def test_the_settings_are_read_without_torch() -> None:
    code = "import sys, rlopt.agents.offline.config, rlopt.agents.offline.run, rlopt.cli.flags; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(shown.split()) & {"torch", "stable_baselines3", "gymnasium"}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = corridor().save(tmp_path / "corridor"), tmp_path / "run"
    flags = ["--dataset", str(folder), "--total-timesteps", "200", "--eval-every", "100", "--eval-episodes", "2"]
    assert main(["train", "iql", *flags, "--run-dir", str(run), "--device", "cpu", "--net-arch", "8"]) == 0
    shown = capsys.readouterr().out
    assert "gradient steps/s" in shown and "env steps" not in shown and "episode has ended" not in shown
    assert main(["resume", str(run), "--total-timesteps", "300"]) == 0
    assert main(["evaluate", str(run), "--episodes", "3"]) == 0
    assert "rlopt/Corridor-v0" in capsys.readouterr().out
    code = main(["train", "td3_bc", *flags, "--run-dir", str(tmp_path / "other")])
    error = capsys.readouterr().err
    assert code == 2 and "BC, AWAC or IQL" in error and error.count("\n") == 1


def test_a_file_that_does_not_say_its_environment_is_of_the_one_that_is_named(tmp_path: Path) -> None:
    """A plain HDF5 file of the D4RL layout; a published one, or one of rlopt's, still says it itself."""
    known = pendulum(60)
    file = tmp_path / "own's.hdf5"
    with h5py.File(file, "w") as out:
        for name in ("observations", "actions", "rewards"):
            out[name] = getattr(known, name)
        out["actions"][...] /= 2
        out["terminals"], out["timeouts"] = np.zeros(60, bool), known.episode_ends
    arguments = [
        "train",
        "bc",
        "--dataset",
        str(file),
        "--total-timesteps",
        "2",
        "--batch-size",
        "4",
        "--net-arch",
        "4",
    ]
    arguments += ["--eval-episodes", "1", "--max-episode-steps", "5", "--run-dir"]
    assert main([*arguments, str(tmp_path / "run"), "--env", "Pendulum-v1"]) == 0
    assert resume(tmp_path / "run", 4).exit_code == 0
    loaded = demonstrations(run_settings(tmp_path), from_mapping(SQILConfig, {"demos": str(file)}, "test"))
    assert loaded["demonstrations"].metadata.env == "Pendulum-v1"
    with pytest.raises(ConfigError, match=r"own's.hdf5 does not say of which environment it is: give --env"):
        train("bc", run_settings(tmp_path / "none", env=""), agent_settings("bc", file))
    write_d4rl(known, tmp_path / "ours.hdf5")
    assert load_dataset(tmp_path / "ours.hdf5", default_env="Hopper-v5").metadata.env == "Pendulum-v1"


def test_the_arguments_of_the_environment_come_from_the_data(tmp_path: Path) -> None:
    """A run is evaluated in the environment that the data were recorded in, with its arguments."""
    data = pendulum(300)
    metadata = dataclasses.replace(data.metadata, env_kwargs={"g": 1.5}, wrappers={"frame_stack": 2})
    place = dataclasses.replace(data, metadata=metadata).save(tmp_path / "data")
    train("bc", run_settings(tmp_path / "run", total_timesteps=100, eval_every=0), agent_settings("bc", place))
    checkpoint = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert environment_settings(checkpoint.metadata).env_kwargs == {"g": 1.5}
    run, _ = complete(RunConfig(), agent_settings("bc", place))
    assert (run.env, run.frame_stack) == ("Pendulum-v1", 2)


def test_training_tells_what_the_data_info_tells(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Dataset.load(data)
    noted = dataclasses.replace(whole, metadata=whole.metadata.noted("every second row was lost"))
    place = noted.save(tmp_path / "noted")
    train("bc", run_settings(tmp_path / "run", total_timesteps=100, eval_every=0), agent_settings("bc", place))
    assert capsys.readouterr().out.splitlines().count("note: every second row was lost") == 1


def test_a_d4rl_name_stands_for_gymnasium_s_newest_environment(tmp_path: Path) -> None:
    path = write_file(tmp_path / "hopper_medium-v2.hdf5", gym_arrays(20, timeouts=(9, 19)))
    run, _ = complete(RunConfig(), agent_settings("bc", path))
    assert run.env == "Hopper-v5"
    shown, _ = parse_training("sqil", SQILConfig, ["--demos", str(path)])
    assert shown.env == "Hopper-v5"
    hopper, other = (rlopt.make_env(name) for name in ("Hopper-v5", "Walker2d-v5"))
    demos = Demonstrations.from_dataset(load_dataset(path))
    demos.check_fits(hopper.settings, hopper.observation_space, hopper.action_space)
    with pytest.raises(DataError, match=r"rlopt data convert IN\.hdf5 OUT --env Walker2d-v5"):
        demos.check_fits(other.settings, other.observation_space, other.action_space)
    for name, entry in D4RL_NAMES.items():
        if (found := gymnasium_id(name)) is not None:
            env = gymnasium.make(found)
            assert env.observation_space.shape == (entry.observation_size,), name
            assert env.action_space.shape == (entry.action_size,), name
    assert gymnasium_id("halfcheetah-random-v0") == "HalfCheetah-v5" and gymnasium_id("ant-medium-v2") is None


def test_a_d4rl_name_without_an_environment_says_what_to_give(tmp_path: Path) -> None:
    path = write_file(tmp_path / "maze2d-umaze-v1.hdf5", maze2d_rollout(60, reached=(30,)))
    with pytest.raises(ConfigError, match=r"give --env ID .* --eval-every 0 .* --pointmaze task maps it"):
        complete(RunConfig(), agent_settings("bc", path))
    flags = ["--dataset", str(path), "--eval-every", "0", "--total-timesteps", "100", "--net-arch", "8"]
    assert main(["train", "bc", *flags, "--run-dir", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("line", ["train bc --dataset x.csv", "train sqil --demos x.csv", "evaluate run --fqe x.csv"])
def test_how_a_file_is_read_is_said_to_data_convert(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--columns", "observations=x"]) == 2
    said = capsys.readouterr().err
    assert "rlopt data convert IN OUT --columns ...; then give --" in said and said.endswith(" OUT\n")


def test_help_leaves_out_what_the_agent_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "bc", "--help"])
    said = capsys.readouterr().out
    assert "--dataset" in said and "--init-from" not in said and "--reward " not in said


def test_checkpoints_are_ranked_by_fitted_q_evaluation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train("td3_bc", run_settings(run, total_timesteps=200, eval_every=0), agent_settings("td3_bc", data))
    capsys.readouterr()
    assert main(["evaluate", str(run), "--fqe", str(data), "--fqe-steps", "20", "--gamma", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "fitting Q of the policy to" in said and "data: what the recorded episodes returned from" in said
    written = json.loads((run / "fitted_q.json").read_text())
    names = [path.name for path in list_checkpoints(run / "checkpoints")]
    assert [row["checkpoint"] for row in written["checkpoints"]] == names and len(names) == 2
    assert all(name in said for name in names) and f"highest estimate: {written['highest']}" in said
    values = {row["checkpoint"]: row["value"] for row in written["checkpoints"]}
    assert written["highest"] == max(values, key=values.__getitem__) and written["checkpoints"][0]["gamma"] == 0.9
    assert main(["evaluate", str(run), "--fqe", str(data), "--video"]) == 2
    assert main(["evaluate", str(run), "--fqe", str(tmp_path / "nothing")]) == 2
