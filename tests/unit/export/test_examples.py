"""The examples that run exported policies outside rlopt act as the policy does."""

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rlopt
from rlopt.algorithms.spaces_only_env import SpacesOnlyVecEnv
from rlopt.export.write import export, random_observations

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
BOX = spaces.Box(-1, 1, (3,), np.float32)
PARTS = spaces.Dict({"camera": spaces.Box(0, 255, (36, 36, 3), np.uint8), "joints": BOX})
ACTIONS = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32))


@pytest.fixture(params=["box", "parts"])
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="of the extra onnx")
    env = SpacesOnlyVecEnv(1, {"box": BOX, "parts": PARTS}[request.param], ACTIONS)
    kind = "MlpPolicy" if request.param == "box" else "MultiInputPolicy"
    model = rlopt.MDPO(kind, env, n_steps=8, batch_size=8, value_batch_size=8, seed=0, device="cpu")
    export(model, tmp_path / "policy.onnx", "onnx", raw_frames=True)
    return tmp_path / "policy.onnx"


class Message:
    """Stands in for std_msgs.msg.Float32MultiArray."""

    def __init__(self, data: Any = ()) -> None:
        self.data = data


class Node:
    """Stands in for rclpy.node.Node, in the calls that the example makes."""

    path = ""

    def __init__(self, name: str) -> None:
        self.published: list[Message] = []
        self.errors: list[str] = []

    def declare_parameter(self, name: str, value: str) -> Any:
        return types.SimpleNamespace(value=self.path)

    def create_publisher(self, kind: type, topic: str, depth: int) -> Any:
        return types.SimpleNamespace(publish=self.published.append)

    def create_subscription(self, kind: type, topic: str, answer: Any, depth: int) -> None:
        assert kind is Message

    def get_logger(self) -> Any:
        return types.SimpleNamespace(error=self.errors.append)


def test_the_ros_node_acts_as_the_policy(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: types.ModuleType(name) for name in ("rclpy", "rclpy.node", "std_msgs", "std_msgs.msg")}
    modules["rclpy.node"].Node = Node  # type: ignore[attr-defined]
    modules["std_msgs.msg"].Float32MultiArray = Message  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Node, "path", str(policy))
    spec = importlib.util.spec_from_file_location("policy_node", EXAMPLES / "onnx_ros2" / "policy_node.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    node = example.PolicyNode()
    read = rlopt.load_policy(policy)
    observations = random_observations(read.observation_space, 20)
    for row in range(20):
        one = {k: v[row] for k, v in observations.items()} if isinstance(observations, dict) else observations[row]
        numbers = np.concatenate([np.ravel(part) for part in (one.values() if isinstance(one, dict) else [one])])
        node.act(Message(numbers.astype(np.float32)))
        np.testing.assert_allclose(node.published[-1].data, read.predict(one)[0], rtol=0, atol=1e-5)
    node.act(Message([np.nan]))
    assert len(node.published) == 20 and "are needed" in node.errors[0]


ONNXRUNTIME = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))


@pytest.mark.skipif(
    not any(ONNXRUNTIME.glob("include/**/onnxruntime_cxx_api.h")) or shutil.which("cmake") is None,
    reason="needs cmake and onnxruntime's C++ library: Debian 13's libonnxruntime-dev, or ONNXRUNTIME_ROOT",
)
def test_the_cpp_program_acts_as_the_policy(policy: Path, tmp_path: Path) -> None:
    build = str(tmp_path / "build")
    root = f"-DONNXRUNTIME_ROOT={ONNXRUNTIME}"
    subprocess.run(["cmake", "-S", str(EXAMPLES / "onnx_cpp"), "-B", build, root], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    check = [sys.executable, str(EXAMPLES / "check_cpp.py"), f"{build}/policy", str(policy)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
