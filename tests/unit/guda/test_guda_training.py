"""``rlopt train td3_bc --dataset ... --augment guda``: what is learned from, exact resume, refusals."""

import numpy as np
import pytest
from mazes import point_maze_data

from rlopt.agents.guda.config import GuDAConfig
from rlopt.agents.guda.tasks import make_augmented
from rlopt.agents.offline.config import TD3BCConfig
from rlopt.agents.offline.run import training_data
from rlopt.cli.main import main
from rlopt.errors import ConfigError
from rlopt.runs.train import train
from rlopt.settings.run import RunConfig


@pytest.fixture
def folder(tmp_path):
    return point_maze_data("umaze").save(tmp_path / "data")


def test_training_data_are_the_recorded_and_then_the_augmented(folder) -> None:
    plain = training_data(TD3BCConfig(dataset=str(folder)), seed=3)
    assert len(plain) == 800
    guided = training_data(TD3BCConfig(dataset=str(folder), augment="guda", n_augmented=2000), seed=3)
    expected = make_augmented(plain, GuDAConfig(n=2000, seed=3, include_source=True))
    assert guided.observations.tobytes() == expected.observations.tobytes() and len(guided) == 2800
    uniform = training_data(TD3BCConfig(dataset=str(folder), augment="guda", guide="random", n_augmented=500), seed=3)
    assert "uniform parameters" in uniform.metadata.generator


def test_what_does_not_go_together_is_refused(folder) -> None:
    with pytest.raises(ConfigError, match="held out"):
        train("td3_bc", RunConfig(), TD3BCConfig(dataset=str(folder), augment="guda", validation_fraction=0.1))
    with pytest.raises(ConfigError, match="did you mean 'shortest-path'"):
        training_data(TD3BCConfig(dataset=str(folder), augment="guda", guide="shortest-pth"), seed=0)


@pytest.mark.parametrize("unused", [{"guide": "random"}, {"n_augmented": 50}])
def test_settings_of_an_augmentation_without_one_are_refused(folder, unused, capsys) -> None:
    ((name, value),) = unused.items()
    line = f"{name} has no effect without augmentation: give augment guda, or leave it out"
    flag = f"--{name}".replace("_", "-")
    assert main(["train", "td3_bc", "--dataset", str(folder), flag, str(value)]) == 2
    assert line in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"^{line}$"):
        train("td3_bc", RunConfig(), TD3BCConfig(dataset=str(folder), **unused))


@pytest.mark.slow
def test_training_from_the_command_line_and_resuming_with_the_same_augmentation(folder, tmp_path, capsys) -> None:
    import rlopt

    common = ["--env", "rlopt/PointMaze_UMaze-v0", "--dataset", str(folder), "--augment", "guda"]
    common += ["--n-augmented", "5000", "--guide", "shortest-path", "--eval-every", "0", "--compile", "off"]
    runs = [tmp_path / "once", tmp_path / "twice"]
    for run, steps in zip(runs, ("400", "200"), strict=True):
        assert main(["train", "td3_bc", *common, "--total-timesteps", steps, "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["resume", str(runs[1]), "--total-timesteps", "400"]) == 0
    once, twice = (rlopt.load(run).policy.state_dict() for run in runs)
    assert all(np.array_equal(once[name], twice[name]) for name in once)
