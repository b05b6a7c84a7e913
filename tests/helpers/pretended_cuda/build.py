"""Builds the library that adds the pretended device to torch."""

import subprocess
from pathlib import Path

import torch


def build_device(path: Path) -> Path:
    """Compiles ``device.cpp`` to ``path``, which it returns."""
    torch_home = Path(torch.__file__).parent
    libraries = [f"-L{torch_home / 'lib'}", f"-Wl,-rpath,{torch_home / 'lib'}", "-ltorch_cpu", "-lc10"]
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_home / 'include'}"]
    source = Path(__file__).with_name("device.cpp")
    subprocess.run(["c++", *options, "-o", str(path), str(source), *libraries], check=True)
    return path
