"""Where there is no CUDA device, its tests run on one that the CPU plays; see ``helpers/pretended_cuda/plugin.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretended_cuda.build import build_device

from rlopt.optim.compiled_step import compiler_found

TESTS = Path(__file__).parents[2]
OF_CUDA = [
    "optim/test_cuda_graphs",
    "optim/test_update",
    "imitation/test_ailboost_discriminator",
    "replay/test_weighted_replay",
]

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs these tests itself"),
    pytest.mark.skipif(not compiler_found(), reason="no C++ compiler: the device cannot be built"),
]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that adds the device to torch."""
    return build_device(tmp_path_factory.mktemp("device") / "device.so")


def on_device(device: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    paths = [str(TESTS / "helpers"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PRETENDED_CUDA": str(device), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=600)


def test_the_tests_of_cuda_pass(device: Path) -> None:
    files = [TESTS / "unit" / f"{name}.py" for name in OF_CUDA]
    done = on_device(
        device, "-m", "pytest", "-q", "-p", "pretended_cuda.plugin", "-k", "cuda or captured or gpu", *files
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout and " passed" in done.stdout


REFUSED = """
import pretended_cuda.plugin, torch
x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
for name, mistake in {
    "devices": lambda: x + torch.ones(3),
    "numpy": lambda: x.numpy(),
    "item": lambda: captured(lambda: x.sum().item()),
    "mask": lambda: captured(lambda: x[x > 0]),
    "host": lambda: captured(lambda: torch.tensor([1.0], device="cuda")),
    "debug": lambda: (torch.cuda.set_sync_debug_mode("error"), x.cpu()),
}.items():
    def captured(kernel):
        with torch.cuda.graph(graph):
            kernel()
    try:
        mistake()
    except (RuntimeError, TypeError):
        print(name, "refused")
torch.cuda.set_sync_debug_mode("default")
rate, graph = 2.0, torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = x * rate
rate = 5.0
x.fill_(3)
graph.replay()
print(y.tolist())
"""


def test_it_refuses_what_cuda_refuses_and_a_graph_keeps_numbers_of_the_host(device: Path) -> None:
    done = on_device(device, "-c", REFUSED)
    assert done.returncode == 0, done.stderr
    *refusals, last = done.stdout.splitlines()
    assert refusals == [f"{name} refused" for name in ("devices", "numpy", "item", "mask", "host", "debug")]
    assert last == "[6.0, 6.0, 6.0]"
