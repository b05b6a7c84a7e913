"""With the core packages alone, every command that needs more names the extra to install, in one line."""

import json
import os
import subprocess
import sys

import pytest

from rlopt import MDPO, make_env
from rlopt.checkpoint.files import write_checkpoint
from rlopt.checkpoint.model_state import capture_state

EXTRAS = {
    "dmc": ("dm_control",),
    "d4rl": ("gymnasium_robotics", "h5py", "minari"),
    "fast": ("envpool",),
    "hf": ("datasets",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "optim": ("pytorch_optimizer",),
    "parking": ("highway_env",),
    "ray": ("ray",),
    "tune": ("optuna",),
    "ui": ("sqlalchemy", "fastapi", "uvicorn", "jinja2"),
    "wandb": ("wandb",),
    "warp": ("warp", "mujoco_warp"),
}
"""Extra -> the modules of its packages."""
COMMANDS = {
    "train zo_ranksgd --env CartPole-v1 --oracle human --total-timesteps 100": "ui",
    "train zo_ranksgd --env CartPole-v1 --oracle human --database sqlite:///a.db --total-timesteps 100": "ui",
    "rank serve study": "ui",
    "rank info study": "ui",
    "rank export study": "ui",
    "rank import study.jsonl study": "ui",
    "rank replay study": "ui",
    "train mdpo --env CartPole-v1 --total-timesteps 10 --wandb project": "wandb",
    "train mdpo --env CartPole-v1 --total-timesteps 10 --optimizer adabelief": "optim",
    "train mdpo --env Hopper-v5 --total-timesteps 10 --backend envpool": "fast",
    "train mdpo --env dm_control/cartpole-swingup --total-timesteps 10": "dmc",
    "train mdpo --env dm_control/cartpole-swingup --total-timesteps 10 --backend warp --device cpu": "warp",
    "train mdpo --env PointMaze_UMaze-v3 --total-timesteps 10": "d4rl",
    "train mdpo --env rlopt/PointMaze_UMaze-v0 --total-timesteps 10": "d4rl",
    "train mdpo --env parking-v0 --total-timesteps 10": "parking",
    "train bc --dataset file.hdf5 --total-timesteps 10": "d4rl",
    "train bc --dataset minari:some/data-v0 --total-timesteps 10": "d4rl",
    "train ailboost --demos minari:some/data-v0 --env CartPole-v1 --total-timesteps 10": "d4rl",
    "data info file.hdf5": "d4rl",
    "data info minari:some/data-v0": "d4rl",
    "data info minari:some/data-v0 --download": "d4rl",
    "data convert dmc/walker-walk out.hdf5": "d4rl",
    "data convert dmc/walker-walk minari:some/data-v0": "d4rl",
    "data generate pointmaze-umaze --n 100 --out new": "d4rl",
    "demos info hf": "hf",
    "demos convert dmc/walker-walk new --to hf": "hf",
    "demos convert dmc/walker-walk minari:some/data-v0": "d4rl",
    "sweep --agent mdpo --env CartPole-v1 --total-timesteps 10 --engine ray": "ray",
    "tune --agent mdpo --env CartPole-v1 --total-timesteps 10 --search step_size=0.1..1": "tune",
    "evaluate run --engine ray": "ray",
    "hub push run user/name": "hub",
    "hub pull user/name": "hub",
    "hub list": "hub",
    "export run --to onnx --out policy.onnx": "onnx",
}
"""Command -> the extra that it needs."""
CODE = """
import contextlib, importlib.abc, io, json, sys, traceback
missing, commands = json.loads(sys.argv[1])

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.util
whole = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in missing else whole(name, package)
from rlopt.cli.main import main
for command in commands:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(command.split())
    except BaseException:
        code, said = 1, io.StringIO(traceback.format_exc())
    print(json.dumps([command, code, said.getvalue()]))
import rlopt
try:
    rlopt.load_policy('policy.onnx')
except Exception as error:
    print(json.dumps(['load_policy', 2, f"{error}\\n"]))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    """What each command says, and its exit code, in a process in which the packages of no extra can be imported."""
    folder = tmp_path_factory.mktemp("core")
    env = make_env("CartPole-v1")
    model = MDPO("MlpPolicy", env, n_steps=8, value_batch_size=8, policy_kwargs={"net_arch": [4]}, device="cpu")
    metadata = {"agent": "mdpo", "env": env.settings.as_dict()}  # type: ignore[attr-defined]
    write_checkpoint(folder / "run" / "checkpoints", 8, capture_state(model), metadata)
    for name in ("file.hdf5", "policy.onnx", "study.jsonl"):
        (folder / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    data = folder / "minari" / "some" / "data-v0" / "data"
    data.mkdir(parents=True)
    described = {"dataset_id": "some/data-v0", "observation_space": "", "action_space": "", "total_episodes": 1}
    (data / "metadata.json").write_text(json.dumps(described))
    (data / "main_data.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "hf").mkdir()
    (folder / "hf" / "state.json").write_text("{}")
    missing = [module for modules in EXTRAS.values() for module in modules]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([missing, list(COMMANDS)])],
        capture_output=True, text=True, cwd=folder, timeout=300,
        env={**os.environ, "MINARI_DATASETS_PATH": str(folder / "minari"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {command: (code, text.splitlines()) for command, code, text in lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_names_the_extra(said: dict[str, tuple[int, list[str]]], command: str) -> None:
    code, lines = said[command]
    assert code == 2, lines
    assert len(lines) == 1 and f"pip install 'rlopt[{COMMANDS[command]}]'" in lines[0]


def test_reading_a_policy_does_too(said: dict[str, tuple[int, list[str]]]) -> None:
    assert "pip install 'rlopt[onnx]'" in said["load_policy"][1][0]
