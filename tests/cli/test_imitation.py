"""Imitation from the command line: runs from demonstrations, their evaluation, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
from offline_data import corridor

from rlopt.cli.main import main
from rlopt.data import Demonstrations, load_demonstrations

TINY = [
    "--n-demos", "1", "--total-timesteps", "260", "--learning-starts", "100", "--batch-size", "16",
    "--net-arch", "16", "16", "--eval-episodes", "1",
]  # fmt: skip
ROUNDS = [
    "--learner-steps", "50", "--policy-steps", "50", "--discriminator-steps", "2", "--discriminator-batch-size", "16",
]  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_ailboost_reports_last_mixture_and_best_apart(tmp_path, capsys):
    folder = tmp_path / "run"
    # The episodes of cartpole-swingup have 500 steps here: the first learner's rollout begins in the second one.
    words = ["--demos", "dmc/cartpole-swingup", *TINY, *ROUNDS, "--learner-steps", "0", "--eval-every", "130"]
    code, text = run(capsys, "train", "ailboost", *words, "--run-dir", str(folder))
    assert code == 0, text
    last = rows(folder / "progress.csv")[-1]
    assert {"eval/mean_return", "eval/mixture_mean_return", "eval/best_mean_return"} <= last.keys()
    returns = [float(row["eval/mean_return"]) for row in rows(folder / "progress.csv") if row["eval/mean_return"]]
    assert float(last["eval/best_mean_return"]) == max(returns)
    config = json.loads((folder / "config.json").read_text())
    assert (config["run"]["env"], config["run"]["action_repeat"]) == ("dm_control/cartpole-swingup", 2)
    code, text = run(capsys, "evaluate", str(folder), "--episodes", "1", "--policy", "mixture")
    assert code == 0, text
    assert json.loads((folder / "evaluation.json").read_text())["policy"] == "mixture"
    code, text = run(capsys, "evaluate", str(folder), "--episodes", "1", "--policy", "mixtrue")
    assert code == 2 and "did you mean 'mixture'" in text


@pytest.mark.parametrize("agent", ["sqil", "iq_learn"])
def test_demonstrations_with_discrete_actions_have_learners_of_their_own(agent, tmp_path, capsys):
    folder, demos = tmp_path / "run", tmp_path / "demos"
    Demonstrations.from_dataset(corridor(40, right=1.0)).save(demos)
    words = ["--demos", str(demos), "--total-timesteps", "60", "--learning-starts", "20", "--eval-every", "0"]
    code, text = run(capsys, "train", agent, *words, "--batch-size", "8", "--run-dir", str(folder))
    assert code == 0 and f"the demonstrations have Discrete actions: discrete_{agent}" in text, text
    assert json.loads((folder / "config.json").read_text())["agent"] == f"discrete_{agent}"
    code, text = run(capsys, "resume", str(folder), "--total-timesteps", "80")
    assert code == 0, text
    code, text = run(capsys, "evaluate", str(folder), "--episodes", "1")
    assert code == 0, text
    code, text = run(capsys, "train", agent, *words, "--n-critics", "2")
    assert code == 2 and "--n-critics" in text


@pytest.mark.parametrize("agent", ["dac", "gail", "airl", "sqil", "iq_learn", "value_dice"])
def test_every_imitation_learner_trains_and_goes_on(agent, tmp_path, capsys):
    folder = tmp_path / "run"
    demos = tmp_path / "demos"
    load_demonstrations("dmc/ball_in_cup-catch").trajectories(2).save(demos)
    words = ["--demos", str(demos), "--n-demos", "1", "--eval-every", "0", "--run-dir", str(folder)]
    on_policy = ["--n-steps", "64", "--total-timesteps", "128", "--net-arch", "16", "16", "--discriminator-steps", "2"]
    own = {
        "gail": on_policy,
        "airl": on_policy,
        "dac": [*TINY, *ROUNDS, "--learner-steps", "0"],
        "value_dice": [*TINY, "--gradient-steps", "1"],
    }.get(agent, TINY)
    code, text = run(capsys, "train", agent, *words, *own)
    assert code == 0, text
    code, text = run(capsys, "resume", str(folder), "--total-timesteps", "320")
    assert code == 0 and "continuing from" in text, text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "add --demos"),
        (["--demos", "dmc/cartpole-swnigup"], "cartpole-swingup"),
        (["--demos", "dmc/cartpole-swingup", "--env", "dm_control/cartpole-balance"], "not of dm_control/cartpole-bal"),
        (["--demos", "dmc/cartpole-swingup", "--env", "dm_control/cartpole-swingup"], "--action-repeat 2"),
        (["--demos", "dmc/cartpole-swingup", "--n-demos", "1000"], "1000 demonstrations were asked for"),
        (["--demos", "dmc/cartpole-swingup", "--normalize-observations"], "normalize_observations"),
        (["--demos", "dmc/cartpole-swingup", "--weighting", "constnat"], "constant"),
        (["--demos", "dmc/cartpole-swingup", "--reward-form", "gail"], "divergence js"),
    ],
)
def test_what_cannot_be_imitated_is_refused_in_one_line(words, message, tmp_path, capsys):
    folder = tmp_path / "run"
    code, text = run(capsys, "train", "ailboost", *words, "--total-timesteps", "10", "--run-dir", str(folder))
    assert code == 2 and message in text, text
    *said, error = text.strip().splitlines()
    assert error.startswith("rlopt: error: ") and len(said) <= 1  # what begins, which is said before it is built
    assert not folder.exists()


def test_value_dice_refuses_a_second_normalisation(tmp_path, capsys):
    words = ["--demos", "dmc/cartpole-swingup", "--normalize-observations", "true"]
    code, text = run(capsys, "train", "value_dice", *words, "--run-dir", str(tmp_path / "run"))
    assert code == 2 and "leave out --normalize-observations" in text, text
    assert not (tmp_path / "run").exists()


def test_from_a_clone_to_the_true_reward_beside_demonstrations(tmp_path, capsys):
    clone, folder = str(tmp_path / "clone"), str(tmp_path / "run")
    demos = ["--demos", "dmc/cartpole-swingup", "--n-demos", "1", "--net-arch", "16", "16", "--eval-every", "0"]
    code, text = run(capsys, "train", "bc", *demos, "--total-timesteps", "20", "--run-dir", clone)
    assert code == 0, text
    small = ["--learning-starts", "50", "--batch-size", "16", "--total-timesteps", "80"]
    words = ["train", "sac", *demos, *small, "--init-from", clone, "--cloning-coef", "1", "--run-dir", folder]
    code, text = run(capsys, *words)
    assert code == 0, text
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["run"]["env"], config["run"]["action_repeat"]) == ("dm_control/cartpole-swingup", 2)
    code, text = run(capsys, "resume", folder, "--total-timesteps", "120")
    assert code == 0 and "continuing from" in text, text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--demo-fraction", "0.2"], "demo_fraction has no effect without demonstrations"),
        (["--cloning-coef", "1"], "no demonstrations given: add --demos"),
    ],
)
def test_settings_of_demonstrations_without_any_are_refused(words, message, tmp_path, capsys):
    code, text = run(capsys, "train", "sac", "--env", "Pendulum-v1", *words, "--run-dir", str(tmp_path / "run"))
    assert code == 2 and message in text, text
