"""``rlopt data`` as a user meets it."""

from pathlib import Path

import numpy as np
import pytest
from d4rl_files import gym_arrays, maze2d_rollout, write_file
from one_line import refused
from PIL import Image

from rlopt.cli.main import main
from rlopt.data import load_dataset


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("RLOPT_DATA_DIR", str(tmp_path / "files"))
    monkeypatch.chdir(tmp_path)


def test_info_tells_the_numbers_and_draws_if_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_file(tmp_path / "hopper_medium-v2.hdf5", gym_arrays(40, timeouts=(9, 39), terminals=(19,)))
    assert main(["data", "info", "hopper_medium-v2.hdf5"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["hopper_medium-v2.hdf5"]
    said = capsys.readouterr().out
    # rows 0-8, 10-19, 20-38: row i pays i
    assert "38 in 3 episodes" in said and "1 true terminals, 2 truncations or cuts" in said
    assert "mean 244; least 36" in said and "most 551" in said
    assert "hopper-medium-v2 (d4rl generation" in said and "note: 2 of 40 rows left out" in said
    reference = 100 * (np.mean([36, 145, 551]) + 20.272305) / (3234.3 + 20.272305)
    assert f"{reference:.1f} on average" in said
    assert main(["data", "info", "hopper_medium-v2.hdf5", "--picture", "states.png"]) == 0
    with Image.open(tmp_path / "states.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_a_name_is_looked_up_converted_and_described(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(capsys, "data", "info", "maze2d-umaze-v1")
    assert str(tmp_path / "files" / "maze2d-umaze-sparse-v1.hdf5") in said and "--download" in said
    (tmp_path / "files").mkdir()
    write_file(tmp_path / "files" / "maze2d-umaze-sparse-v1.hdf5", maze2d_rollout(300, reached=(100,)))
    assert main(["data", "convert", "maze2d-umaze-v1", "maze", "--pointmaze", "task", "--waypoints", "drop"]) == 0
    assert "298 transitions, 2 episodes" in capsys.readouterr().out
    assert main(["data", "info", "maze", "--picture", "pictures/maze.svg"]) == 0
    said = capsys.readouterr().out
    assert "PointMaze_UMaze-v3 (rlopt generation" in said and "desired_goal" in said and "mapped from" in said
    assert (tmp_path / "pictures" / "maze.svg").read_text().startswith("<?xml")


def test_every_format_leads_to_every_other_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_file(tmp_path / "x.hdf5", maze2d_rollout(300, reached=(100,)))
    assert main(["data", "convert", "x.hdf5", "a", "--name", "maze2d-umaze-v1", "--pointmaze", "task"]) == 0
    for source, out in (("a", "b.hdf5"), ("b.hdf5", "minari:mine/walk-v0"), ("minari:mine/walk-v0", "c")):
        assert main(["data", "convert", source, out]) == 0
    first, last = load_dataset("a"), load_dataset("c")
    np.testing.assert_equal(last.columns(), first.columns())
    assert last.metadata == first.metadata
    assert main(["data", "convert", "a", "d", "--format", "d4rl"]) == 0 and (tmp_path / "d").is_file()
    capsys.readouterr()
    for out in ("b.hdf5", "c", "minari:mine/walk-v0"):
        assert "exists" in refused(capsys, "data", "convert", "a", out)
        assert main(["data", "convert", "a", out, "--overwrite"]) == 0
        np.testing.assert_equal(load_dataset(out).columns(), first.columns())
        capsys.readouterr()
    (tmp_path / "notes.txt").write_text("mine")
    refused(capsys, "data", "convert", "a", "notes.txt", "--overwrite", "--format", "d4rl")
    refused(capsys, "data", "convert", "a", "notes.txt", "--overwrite")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("inf x", "unknown subverb of rlopt data 'inf': did you mean 'info'?"),
        ("info", "required: DATASET"),
        ("info nothing/here", "nothing/here does not exist"),
        ("info hoper-medium-v2", "did you mean 'hopper-medium-v"),
        ("info x.hdf5", "does not exist"),
        ("info minari:umaze", "is not a Minari id"),
        ("info minari:D4RL/door/human-v2 --conversion sequence", "--conversion cannot be given here"),
        ("info x.hdf5 --max-episode-steps 0", "--max-episode-steps: 0 is outside [1, 1e+09]"),
        ("info x.hdf5 --reward-shift much", "--reward-shift: much is not a number"),
        ("info x.hdf5 --picture picture.bmp", "picture.bmp: pictures are written as .png"),
        ("generate pointmaze-umaze --n 5 --out x.hdf5", "'x.hdf5' is not a folder to write"),
        ("generate pointmaze-umaze --n 5 --out minari:a/b-v0", "'minari:a/b-v0' is not a folder to write"),
        ("augment a b.h5", "'b.h5' is not a folder to write"),
        ("convert a b --format d4r", "unknown format 'd4r': did you mean 'd4rl'?"),
        ("convert a b --pointmase task", "did you mean '--pointmaze'?"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], line: str, named: str) -> None:
    assert named in refused(capsys, "data", *line.split())


def test_a_data_set_is_replaced_only_when_told_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    generate = ["generate", "pointmaze-umaze", "--out", "small", "--n"]
    assert main(["data", *generate, "20"]) == 0
    capsys.readouterr()
    assert "small exists: choose another folder, or give --overwrite" in refused(capsys, "data", *generate, "30")
    assert "small exists" in refused(capsys, "data", "augment", "small", "small", "--n", "10")
    assert len(load_dataset("small")) == 20
    assert main(["data", *generate, "30", "--overwrite"]) == 0 and len(load_dataset("small")) == 30
    assert main(["data", "augment", "small", "large", "--n", "40"]) == 0
    assert main(["data", "augment", "small", "large", "--n", "50", "--overwrite"]) == 0
    assert len(load_dataset("large")) == 50


def test_the_place_is_looked_at_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlopt.collect.generators

    monkeypatch.setattr(rlopt.collect.generators, "generate", pytest.fail)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for flags in ([], ["--overwrite"]):
        said = refused(capsys, "data", "generate", "pointmaze-umaze", "--n", "5", "--out", "mine", *flags)
        assert "mine holds other files than a data set: choose another path" in said
    assert "mine is not a data set" in refused(capsys, "data", "info", "mine")
