"""Trained agents packed, pushed to a local Hub, fetched from it, and those that come with rlopt."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_endpoint import Hub, serving

import rlopt
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.errors import CheckpointError, ConfigError, RunError, UnknownNameError
from rlopt.hub.pack import pack_run
from rlopt.run_folder import TRAINED, trained_agents

TRAIN = "train sac --env Pendulum-v1 --total-timesteps 120 --learning-starts 100 --net-arch 16 16 --eval-every 60"
TRAIN += " --eval-episodes 2 --normalize-observations --compile off"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sac"
    assert main([*TRAIN.split(), "--run-dir", str(folder)]) == 0
    assert main(["evaluate", str(folder), "--episodes", "3"]) == 0
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    found = Hub(token="secret")
    with serving(found) as url:
        # What HF_ENDPOINT sets when huggingface_hub is imported.
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "secret")
        yield found


def actions(folder: Path) -> np.ndarray:
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    return np.asarray(rlopt.load(folder, device="cpu").predict(observations, deterministic=True)[0])


def test_a_packed_run_acts_as_the_run_and_keeps_nothing_else(run: Path, tmp_path: Path) -> None:
    packed = pack_run(run, tmp_path / "packed")
    assert np.array_equal(actions(packed), actions(run))
    (checkpoint,) = list_checkpoints(packed / "checkpoints")
    trees = read_checkpoint(checkpoint).trees
    assert set(trees) == {"model", "networks", "env", "training"}
    assert all(part["state"] == [] for part in trees["networks"]["optimizers"].values())
    assert main(["evaluate", str(packed), "--episodes", "2"]) == 0
    assert str(run.parent) not in "".join(file.read_text() for file in packed.rglob("*.json"))
    with pytest.raises(RunError, match="holds files"):
        pack_run(run, packed)


def test_a_run_goes_to_the_hub_and_back(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hub", "push", str(run), "me/swing-up"]) == 0
    assert f"pushed: {hub.url}/me/swing-up" in capsys.readouterr().out
    assert not [name for name in hub.files["me/swing-up"] if name.endswith((".pkl", ".zip", ".pt", ".bin"))]
    hub.files["me/swing-up"]["evil.pkl"] = b"cos\nsystem\n(S'touch /tmp/evil'\ntR."
    assert main(["hub", "pull", "me/swing-up", "--out", str(tmp_path / "back")]) == 0
    assert "evil.pkl" not in hub.fetched and not (tmp_path / "back" / "evil.pkl").exists()
    assert np.array_equal(actions(tmp_path / "back"), actions(run))
    assert main(["hub", "list", "--author", "me"]) == 0
    assert "me/swing-up" in capsys.readouterr().out


def test_the_card_says_what_was_measured(run: Path, hub: Hub) -> None:
    assert main(["hub", "push", str(run), "me/agent"]) == 0
    _, front, body = hub.files["me/agent"]["README.md"].decode().split("---\n", 2)
    data = yaml.safe_load(front)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert data["library_name"] == "rlopt" and {"sac", "Pendulum-v1"} <= set(data["tags"])
    (metric,) = data["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{evaluation['mean']:.2f} +/- {evaluation['std']:.2f}"
    low, high = evaluation["interval"]
    assert f"{evaluation['iqm']:.1f} [{low:.1f}, {high:.1f}]" in body
    for words in ("`net_arch` | `[16, 16]`", "rlopt hub pull me/agent", "learning_curve.svg", "`torch`", "120 steps"):
        assert words in body, words


def test_a_second_push_replaces_the_checkpoint(run: Path, hub: Hub, tmp_path: Path) -> None:
    for checkpoint in ("latest", "step-000000000060"):
        if checkpoint == "latest" or checkpoint in [path.name for path in list_checkpoints(run / "checkpoints")]:
            assert main(["hub", "push", str(run), "me/agent", "--checkpoint", checkpoint]) == 0
    hub.files["me/agent"]["checkpoints/step-000000999999/manifest.json"] = b"{}"
    assert main(["hub", "push", str(run), "me/agent"]) == 0
    assert {name.split("/")[1] for name in hub.files["me/agent"] if name.startswith("checkpoints/")} == {
        "step-000000000120"
    }


def test_a_damaged_checkpoint_is_refused(run: Path, hub: Hub, tmp_path: Path) -> None:
    assert main(["hub", "push", str(run), "me/agent"]) == 0
    name = "checkpoints/step-000000000120/networks.safetensors"
    hub.files["me/agent"][name] = hub.files["me/agent"][name][:-1] + b"x"
    from rlopt.hub.remote import pull

    with pytest.raises(CheckpointError):
        pull("me/agent", tmp_path / "out")


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("me/nothing", "the Hub has no me/nothing"),
        ("a b", "is not a name of a repository"),
        ("me/other", "holds no agent of rlopt"),
    ],
)
def test_a_mistake_is_one_line(
    hub: Hub, tmp_path: Path, repo: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["me/other"], hub.private["me/other"] = {"model.pkl": b""}, False
    assert main(["hub", "pull", repo, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_pushing_without_a_login_names_it(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert main(["hub", "push", str(run), "me/agent"]) == 2
    assert "log in with hf auth login" in capsys.readouterr().err


def test_the_agents_that_come_with_rlopt_reach_what_their_cards_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sum(file.stat().st_size for file in TRAINED.rglob("*")) < 2e6
    names = trained_agents()
    assert {"rlopt/half-cheetah", "rlopt/pendulum"} <= set(names)
    for name, folder in names.items():
        said = json.loads((folder / "evaluation.json").read_text())
        model = rlopt.load(name, device="cpu")
        if name == "rlopt/pendulum":
            assert rlopt.evaluate(model, "Pendulum-v1", n_episodes=100, n_envs=16).iqm == pytest.approx(
                said["iqm"], rel=1e-3
            )
        assert model.num_timesteps == said["step"]
    assert main(["evaluate", "rlopt/pendulum", "--episodes", "2"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(["hub", "list", "--packaged"]) == 0
    assert "rlopt/half-cheetah" in capsys.readouterr().out
    with pytest.raises(UnknownNameError, match="half-cheetah"):
        rlopt.load("rlopt/half_cheeta")


def test_a_folder_of_that_name_goes_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "rlopt" / "pendulum")
    assert type(rlopt.load("rlopt/pendulum", device="cpu")).__name__ == "SAC"


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    from rlopt.hub.remote import listed

    with pytest.raises(ConfigError, match=r"pip install 'rlopt\[hub\]'"):
        listed()
