"""D4RL names, their files and scores, and the download from a server on this machine."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from d4rl_files import gym_arrays, maze2d_rollout, write_file

from rlopt.data import load_dataset, normalized_score, score
from rlopt.data.names import D4RL_NAMES, d4rl_name
from rlopt.data.scores import D4RL_REFERENCE_RETURNS
from rlopt.errors import DataError, UnknownNameError

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
# name -> folder and file, as D4RL's own table has them
PUBLISHED = {
    "hopper-medium-v2": "gym_mujoco_v2/hopper_medium-v2.hdf5",
    "halfcheetah-medium-replay-v0": "gym_mujoco/halfcheetah_mixed.hdf5",
    "walker2d-medium-replay-v0": "gym_mujoco/walker_mixed.hdf5",
    "walker2d-medium-replay-v2": "gym_mujoco_v2/walker2d_medium_replay-v2.hdf5",
    "ant-full-replay-v1": "gym_mujoco_v1/ant_full_replay-v1.hdf5",
    "maze2d-open-v0": "maze2d/maze2d-open-sparse.hdf5",
    "maze2d-large-v1": "maze2d/maze2d-large-sparse-v1.hdf5",
    "maze2d-umaze-dense-v1": "maze2d/maze2d-umaze-dense-v1.hdf5",
    "antmaze-medium-diverse-v2": (
        "ant_maze_v2/Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5"
    ),
    "antmaze-umaze-v0": "ant_maze_new/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5",
    "pen-human-v0": "hand_dapg/pen-v0_demos_clipped.hdf5",
    "door-cloned-v0": "hand_dapg/door-demos-v0-bc-combined.hdf5",
    "relocate-expert-v1": "hand_dapg_v1/relocate-expert-v1.hdf5",
    "kitchen-complete-v0": "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
}


def test_names_lead_to_the_published_files() -> None:
    for name, path in PUBLISHED.items():
        assert d4rl_name(name).url == f"{HOST}/{path}" and d4rl_name(name).file == path.split("/")[1]
    assert d4rl_name("antmaze-umaze-v1").url is None
    files = [entry.file for entry in D4RL_NAMES.values()]
    assert len(set(files)) == len(files) == 4 * 17 + 8 + 18 + 24 + 3
    with pytest.raises(UnknownNameError, match="did you mean 'maze2d-umaze-v1'"):
        load_dataset("maze2d-umze-v1")


def test_normalised_scores_are_those_of_the_papers_table() -> None:
    assert set(D4RL_REFERENCE_RETURNS) == set(D4RL_NAMES)
    # a random policy has 0, an expert 100, half way between 50
    for name, low, high in (
        ("hopper-medium-v2", -20.272305, 3234.3),
        ("maze2d-large-v1", 6.7, 273.99),
        ("kitchen-mixed-v0", 0.0, 4.0),
        ("pen-human-v1", 96.262799, 3076.8331017826877),
    ):
        np.testing.assert_allclose(normalized_score([low, (low + high) / 2, high], name, "d4rl"), [0, 50, 100])
    assert normalized_score(1.0, "antmaze-large-play-v2", "d4rl").shape == ()
    np.testing.assert_allclose(score(np.full((2, 3), 5.0), (0, 10)), 50)


@pytest.mark.parametrize(
    ("name", "generation", "said"),
    [
        ("hopper-medium-v2", "rlopt", "do not hold for rlopt environments"),
        ("hopper-medium-v2", "minari", "do not hold for minari environments"),
        ("hopper-medium-v2", "d4lr", "did you mean 'd4rl'"),
        ("Hopper-v5", "d4rl", "is not a D4RL data set"),
        ("PointMaze_UMaze-v3", "d4rl", "is not a D4RL data set"),
        ("hopper-medium-v3", "d4rl", "did you mean 'hopper-medium-v"),
    ],
)
def test_scores_of_different_generations_are_not_mixed(name: str, generation: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        normalized_score([1.0], name, generation)
    with pytest.raises(DataError, match="random < expert"):
        score([1.0], (2, 2))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLOPT_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; what is below ``short`` breaks off in the middle."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if "short" not in self.path:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 300)
        return None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    (folder / "maze2d").mkdir(parents=True)
    handler = lambda *args: Server(*args, directory=str(folder))  # noqa: E731
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setenv("RLOPT_D4RL_URL", address)
    yield address, folder
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_file_that_is_there_is_used_and_one_that_is_not_is_named(data_dir: Path) -> None:
    data_dir.mkdir()
    write_file(data_dir / "hopper_medium-v2.hdf5", gym_arrays(timeouts=(39,)))
    assert load_dataset("hopper-medium-v2").metadata.env == "hopper-medium-v2"
    with pytest.raises(DataError) as caught:
        load_dataset("hopper-expert-v2")
    said = str(caught.value)
    assert str(data_dir / "hopper_expert-v2.hdf5") in said and "--download" in said and "\n" not in said
    assert f"{HOST}/gym_mujoco_v2/hopper_expert-v2.hdf5" in said
    with pytest.raises(DataError, match=rf"no file {data_dir}/antmaze-umaze-v1.hdf5, and its published address is not"):
        load_dataset("antmaze-umaze-v1", download=True)
    write_file(data_dir / "hopper-expert-v2.hdf5", gym_arrays(timeouts=(39,)))
    assert load_dataset("hopper-expert-v2").metadata.env == "hopper-expert-v2"


def test_download_shows_and_keeps_size_and_checksum(
    data_dir: Path, server: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    address, folder = server
    name = "maze2d-umaze-sparse-v1.hdf5"
    source = write_file(folder / "maze2d" / name, maze2d_rollout(100))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    data = load_dataset("maze2d-umaze-v1", download=True)
    said = capsys.readouterr().err
    assert len(data) == 99 and f"{address}/maze2d/{name}" in said
    assert digest in said and f"{source.stat().st_size} bytes" in said
    assert (data_dir / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    assert sorted(path.name for path in data_dir.iterdir()) == [name, f"{name}.sha256"]
    source.unlink()
    load_dataset("maze2d-umaze-v1", download=True)  # it is here now
    with open(data_dir / name, "r+b") as file:
        file.seek(2000)
        file.write(b"\x00\x01")
    with pytest.raises(DataError, match=r"is not what .*sha256 says: delete both"):
        load_dataset("maze2d-umaze-v1")
    with pytest.raises(DataError, match=r"is not what .*sha256 says"):
        load_dataset(data_dir / name)


def test_failing_downloads_are_one_line_and_leave_nothing(
    data_dir: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    expected = data_dir / "maze2d-umaze-sparse-v1.hdf5"
    for url, said in (
        (address, "the server answers 404"),
        (f"{address}/short", "300 of 1000|IncompleteRead"),
        ("http://127.0.0.1:1", "cannot be fetched"),
        ("file:///etc", "is not a web address"),
    ):
        monkeypatch.setenv("RLOPT_D4RL_URL", url)
        with pytest.raises(DataError, match=said) as caught:
            load_dataset("maze2d-umaze-v1", download=True)
        assert "\n" not in str(caught.value) and (str(expected) in str(caught.value) or "web address" in said)
        assert not data_dir.exists() or list(data_dir.iterdir()) == []


def test_a_data_folder_that_cannot_be_written_is_one_line(
    data_dir: Path, server: tuple[str, Path], tmp_path: Path
) -> None:
    write_file(server[1] / "maze2d" / "maze2d-umaze-sparse-v1.hdf5", maze2d_rollout(100))
    data_dir.write_text("a file in the way")
    with pytest.raises(DataError, match="cannot be written"):
        load_dataset("maze2d-umaze-v1", download=True)
