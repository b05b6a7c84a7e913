"""``rlopt demos`` as a user meets it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from demonstration_data import walk
from one_line import refused
from stable_baselines3 import PPO

from rlopt.cli.main import main
from rlopt.data import load_dataset, load_demonstrations


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)


def test_every_format_leads_to_every_other_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    data = walk((5, 7), env="CartPole-v1", deterministic=True)
    data.save("a")
    places = (("b.npz", "imitation"), ("c.npz", "valuedice"), ("d", "hf"), ("minari:mine/walk-v0", "minari"))
    source = "a"
    for out, form in (*places, ("e", "rlopt")):
        assert main(["demos", "convert", source, out, "--to", form]) == 0
        assert capsys.readouterr().out.startswith("2 trajectories, 12 transitions: ")
        np.testing.assert_equal(load_demonstrations(out).columns(), data.columns())
        source = out
    assert load_demonstrations("e").metadata.noted() == load_demonstrations(source).metadata
    for out, form in places:
        assert "exists" in refused(capsys, "demos", "convert", "a", out, "--to", form)
        assert main(["demos", "convert", "a", out, "--to", form, "--overwrite"]) == 0
        np.testing.assert_equal(load_demonstrations(out).columns(), data.columns())
    Path("notes.npz").write_text("mine")
    refused(capsys, "demos", "convert", "a", "notes.npz", "--overwrite")
    Path("notes").mkdir()
    for form in ("hf", "rlopt"):
        Path("notes/mine.txt").write_text("mine")
        refused(capsys, "demos", "convert", "a", "notes", "--overwrite", "--to", form)
    assert Path("notes.npz").read_text() == Path("notes/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("info nowhere", "unknown data set 'nowhere'"),
        ("info dmc/walker-wlk", "unknown data set"),
        ("info a/b", "does not exist"),
        ("convert a b --to imitaton", "did you mean 'imitation'"),
        ("convert a b --to imitation", "an .npz file"),
        ("convert a b.npz --to hf", "a folder"),
        ("convert a minari:x-v0 --to hf", "a folder"),
        ("convert a b --to minari", "minari:<id>"),
        ("info a --env CartPole-v1", "--env cannot be given here"),
        ("info x.npz --action-repeat 0", "--action-repeat"),
        ("info x.pkl", "docs/data.md"),
        ("record nowhere --out b", "not a run folder"),
        ("record model.zip --out b", "add --env ID"),
        ("record model.zip --env CartPole-v1 --out b --n-trajectories 0", "--n-trajectories"),
        ("record model.zip --env CartPole-v1 --out b --image-size 84", "add --pixels"),
        ("record model.zip --env Pendulum-v1 --out b", "other networks"),
        ("record model.zip --env CartPole-v1 --out a", "exists"),
        ("record model.zip --env CartPole-v1", "--out"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], line: str, named: str) -> None:
    walk().save("a")
    Path("x.pkl").write_bytes(pickle.dumps({}))
    if "model.zip" in line:
        PPO("MlpPolicy", "CartPole-v1", device="cpu").save("model.zip")
    assert named in refused(capsys, "demos", *line.split())
    assert not Path("b").exists()


def test_a_zip_file_is_recorded_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    model.save("model.zip")
    command = ["demos", "record", "model.zip", "--env", "CartPole-v1", "--n-trajectories", "3", "--seed", "4"]
    assert main([*command, "--out", "demos"]) == 0
    data = load_demonstrations("demos")
    said = capsys.readouterr().out
    assert f"3 trajectories, {len(data)} transitions of CartPole-v1" in said
    assert f"mean return {len(data) / 3:.1f}" in said  # CartPole pays 1 a step
    assert (data.discounts == 0).sum() == 3
    np.testing.assert_array_equal(data.actions, model.predict(data.observations, deterministic=True)[0])
    assert main([*command, "--out", "demos", "--sampled", "--overwrite"]) == 0
    sampled = load_demonstrations("demos")
    assert sampled.metadata.deterministic is False and sampled.metadata.seed == 4
    assert type(load_dataset("demos")) is type(sampled)
    capsys.readouterr()
    assert main(["demos", "info", "demos"]) == 0
    said = capsys.readouterr().out
    assert "sampled actions" in said and f"mean return {len(sampled) / 3:.4g}" in said and "model.zip; seed 4" in said


def test_a_foreign_file_is_told_what_it_is_and_reordered(capsys: pytest.CaptureFixture[str]) -> None:
    obs = np.arange(15.0).reshape(3, 5)  # velocity 2, position 3
    np.savez("x.npz", obs=obs, acts=np.zeros((2, 1)), indices=np.zeros(0, int), terminal=np.array([True]))
    said = ["--env", "dm_control/cartpole-swingup", "--action-repeat", "2", "--observation-keys", "velocity,position"]
    assert main(["demos", "convert", "x.npz", "ours", "--reorder", *said]) == 0
    ours = load_demonstrations("ours")
    assert ours.observations[0].tolist() == [2, 3, 4, 0, 1] and ours.next_observations[1].tolist() == [
        12,
        13,
        14,
        10,
        11,
    ]
    assert (ours.metadata.env, ours.metadata.action_repeat) == ("dm_control/cartpole-swingup", 2)
    assert ours.metadata.observation_keys == ("position", "velocity")
    assert "--observation-keys" in refused(capsys, "demos", "convert", "x.npz", "b", "--reorder", *said[:2])
    assert "give --env" in refused(capsys, "demos", "convert", "x.npz", "b", "--reorder")
    walk(env="evil:Walk-v0").save("downloaded")
    assert "give --env" in refused(capsys, "demos", "convert", "downloaded", "b", "--reorder")


@pytest.mark.slow
def test_the_best_checkpoint_of_a_run_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    train = "train mdpo --env rlopt/RandomTarget-v0 --total-timesteps 512 --n-steps 64 --n-envs 2 --run-dir run"
    assert main([*train.split(), "--eval-every", "256", "--checkpoint-every", "256"]) == 0
    assert main(["demos", "record", "run", "--n-trajectories", "2", "--out", "demos.npz"]) == 0
    data = load_demonstrations("demos.npz")
    assert data.n_trajectories == 2 and data.metadata.env == "rlopt/RandomTarget-v0" and data.discounts.all()
    assert data.metadata.generator.startswith("mdpo after") and data.metadata.generator.endswith("run run")
    assert "--action-repeat is for zip files" in refused(
        capsys, "demos", "record", "run", "--out", "x", "--action-repeat", "2"
    )
