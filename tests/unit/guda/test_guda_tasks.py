"""From settings to data: ``rlopt data augment`` and ``check``, and the tables behind them."""

import dataclasses
import re

import numpy as np
import pytest
from mazes import ant_maze_data, point_maze_data

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.tasks import TASKS, make_augmented, set_up
from rlopt.cli.flags import field_help
from rlopt.cli.main import main
from rlopt.collect.generators import generate
from rlopt.data import Dataset
from rlopt.errors import AugmentationError, ConfigError, UnknownNameError


def as_dictionaries(data: Dataset, env_id: str, goals: np.ndarray) -> Dataset:
    """The form that gymnasium-robotics' own environments have."""

    def entries(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"observation": rows, "achieved_goal": rows[:, :2].copy(), "desired_goal": goals.astype(np.float32)}

    columns = {**data.columns(), "extras": {}}
    columns["observations"] = entries(data.observations)
    columns["next_observations"] = entries(data.next_observations)
    return Dataset(**columns, metadata=dataclasses.replace(data.metadata, env=env_id))


def test_the_help_names_every_domain_and_guide_and_others_are_refused() -> None:
    texts = field_help(GuDAConfig)
    assert all(name in texts["domain"] for name in ["auto", *TASKS])
    guides = {guide for task in TASKS.values() for guide in task.guides}
    assert all(name in texts["guide"] for name in {"default", "random"} | guides)
    with pytest.raises(UnknownNameError, match="did you mean 'pointmaze'"):
        set_up(point_maze_data("umaze"), GuDAConfig(domain="pointmze"))


def test_dictionary_observations_come_back_as_dictionaries_with_goals_relabelled() -> None:
    flat = point_maze_data("umaze")
    goals = np.random.default_rng(0).uniform(-1, 1, (len(flat), 2))
    data = as_dictionaries(flat, "PointMaze_UMaze-v3", goals)
    made = make_augmented(data, GuDAConfig(n=500))
    assert set(made.observations) == {"observation", "achieved_goal", "desired_goal"}
    assert np.array_equal(made.observations["achieved_goal"], made.observations["observation"][:, :2])
    uniform = make_augmented(data, GuDAConfig(n=500, guide="random", segment_length=1, simulated=0.0))
    assert len(np.unique(uniform.observations["desired_goal"], axis=0)) == 500
    elsewhere = make_augmented(data, GuDAConfig(n=500, goal_cell=(3, 1)))
    assert (elsewhere.observations["desired_goal"] == [-1, -1]).all()


def test_one_goal_stays_as_it_is() -> None:
    data = generate("pointmaze-umaze", 300, seed=0, goal_in_observation=True, backend="gymnasium")
    for guide in ("random", "shortest-path"):
        made = make_augmented(data, GuDAConfig(n=200, guide=guide))
        assert (made.observations[:, 4:] == [-1, 1]).all() and "goal" not in made.extras


def test_another_goal_cell_is_rewarded_without_being_observed() -> None:
    made = make_augmented(point_maze_data("umaze"), GuDAConfig(n=2000, goal_cell=(3, 1)))
    distance = np.linalg.norm(made.next_observations[:, :2] - [-1, -1], axis=1)
    assert np.array_equal(made.rewards, distance <= 0.45) and made.rewards.sum() > 100


def test_ant_mazes_move_segments_by_translation() -> None:
    made = make_augmented(ant_maze_data(), GuDAConfig(n=200))
    lengths = {episode.stop - episode.start for episode in made.episodes()[:-1]}
    assert lengths == {8} and set(made.extras) == {"source_row", "source_return", "position"}
    turned = make_augmented(ant_maze_data(), GuDAConfig(n=200, rotate="quarter", segment_length=1))
    assert set(made.extras) | {"quarter_turns"} == set(turned.extras)
    inexact = make_augmented(ant_maze_data(), GuDAConfig(n=50, rotate="any", guide="random"))
    assert "friction cone" in inexact.metadata.notes[-1] and "angle" in inexact.extras


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"guide": "park-at-goal"}, UnknownNameError, "guide of the domain pointmaze"),
        ({"domain": "antmaze"}, AugmentationError, "domain antmaze does not fit data of rlopt/PointMaze_UMaze-v0"),
        ({"domain": "parking"}, AugmentationError, "needs observations of 12"),
        ({"rotate": "any"}, ConfigError, "multiples of 90 degrees"),
        ({"goal_cell": (0, 0)}, ConfigError, "not a free cell"),
        ({"goal_cell": (1,)}, ConfigError, "not a free cell"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make_augmented(point_maze_data("umaze"), GuDAConfig(n=10, **settings))


def test_unknown_environments_need_a_domain() -> None:
    data = point_maze_data("umaze")
    foreign = dataclasses.replace(data, metadata=dataclasses.replace(data.metadata, env="Swimmer-v5"))
    with pytest.raises(AugmentationError, match="no augmentation is known for Swimmer-v5"):
        set_up(foreign, GuDAConfig())


def test_command_line_augments_and_checks(tmp_path, capsys) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    point_maze_data("umaze").save(source)
    command = [
        "data",
        "augment",
        str(source),
        str(out),
        "--domain",
        "pointmaze",
        "--guide",
        "shortest-path",
        "--n",
        "2e3",
    ]
    assert main([*command, "--seed", "3"]) == 0
    assert "became 2,000" in capsys.readouterr().out
    made = Dataset.load(out)
    expected = make_augmented(point_maze_data("umaze"), GuDAConfig(n=2000, seed=3))
    assert made.observations.tobytes() == expected.observations.tobytes()
    assert set(made.extras) == {"source_row", "source_return", "position", "quarter_turns", "simulated"}
    assert main([*command, "--include-source", "--overwrite"]) == 0
    both = Dataset.load(out)
    assert len(both) == 2800 and (~both.extras["augmented"]).sum() == 800
    capsys.readouterr()
    assert main(["data", "check", str(source), "--n", "50", "--reflect"]) == 0
    shown = capsys.readouterr().out
    assert "50 augmented transitions against the simulator: exact" in shown
    starts = [float(word) for word in re.findall(r"outside the support +(\S+) % .*; (\S+) % after", shown)[0]]
    assert starts[0] > 50 > 10 > starts[1]  # one walk has hardly a slow state, episodes begin at rest
    # float32 numbers of the file are no match for a tolerance of 1e-15.
    assert main(["data", "check", str(source), "--n", "50", "--recorded", "--tolerance", "1e-15"]) == 1


@pytest.mark.slow
def test_command_line_augments_with_learned_dynamics(tmp_path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    point_maze_data("umaze").save(source)
    assert main(["data", "augment", str(source), str(out), "--method", "learned-dynamics", "--n", "100"]) == 0
    assert "partner" in Dataset.load(out).extras


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["augment", "SOURCE"], "got 1 of the 2"),
        (["augment", "SOURCE", "x", "--gide", "random"], "--guide"),
        (["augment", "SOURCE", "x", "--guide", "shortest"], "shortest-path"),
        (["augment", "SOURCE", "x", "--n", "0"], "outside"),
        (["augment", "no/such", "x"], "does not exist"),
        (["check"], "takes one data set"),
        (["check", "SOURCE", "--guide", "shortst-path"], "shortest-path"),
        (["check", "SOURCE", "--tolerance", "-1"], "outside"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, capsys, arguments: list[str], message: str) -> None:
    source = tmp_path / "source"
    point_maze_data("umaze").save(source)
    argv = [str(source) if token == "SOURCE" else token for token in arguments]
    assert main(["data", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
