"""The folder of a training run: where things lie, who may write there, what was installed. Imports no torch."""

import contextlib
import dataclasses
import glob
import json
import os
import platform
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import rlopt
from rlopt.errors import RloptError, RunError, one_line, resource_error, unknown_name
from rlopt.registry import agent_spec, former_agent, refuse_import, resolve
from rlopt.settings.fields import from_mapping, without_former
from rlopt.settings.run import RunConfig
from rlopt.storage.budget import open_plain
from rlopt.storage.json import check_size

PACKAGES = (
    "rlopt", "torch", "stable-baselines3", "gymnasium", "numpy", "mujoco", "dm-control", "envpool", "safetensors",
    "gymnasium-robotics",
)  # fmt: skip
EXACTNESS_PACKAGES = ("rlopt", "torch", "stable-baselines3", "gymnasium", "numpy", "mujoco", "dm-control", "envpool")
"""Packages whose version decides whether a resumed run is bit for bit the one that was stopped."""

GROUP_FILE = "seeds.json"
"""Settings of several runs that were started together, in the folder that holds their folders."""
SWEEP_FILE = "sweep.json"
"""What a sweep runs, in the folder that holds its runs' folders."""
TUNE_FILE = "tune.json"
"""What a search of settings tries, in the folder that holds its trials' folders."""
TRAINED = Path(rlopt.__file__).parent / "hub" / "trained"
"""Packed runs that come with rlopt; scripts/make_trained_agents.py makes them."""
_MAX_JSON_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of a run. Nothing is created by naming them."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings that the run was started with."""
        return self.path / "config.json"

    @property
    def versions(self) -> Path:
        """Versions of Python and packages, and the machine."""
        return self.path / "versions.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Which checkpoint had the best evaluation."""
        return self.path / "best.json"

    @property
    def resume(self) -> Path:
        """Whether its environments continue exactly from a checkpoint, as far as it was shown."""
        return self.path / "resume.json"

    @property
    def proof(self) -> Path:
        """A state of its environments and the steps that followed, which a resume repeats once more."""
        return self.path / "proof"

    @property
    def tensorboard(self) -> Path:
        """The folder of the TensorBoard logs."""
        return self.path / "tb"

    def require_new(self) -> None:
        """Raises :class:`rlopt.errors.RunError` unless the folder is absent or empty."""
        try:
            exists = self.path.exists()
        except OSError as error:  # such as a name that is too long
            raise RunError(f"the run folder cannot be used ({error.strerror}): choose another --run-dir") from None
        if exists and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose another --run-dir")
        if self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise RunError(
                f"run folder {self.path} exists: choose another --run-dir or continue it with {self.command}"
            )

    def require_there(self) -> None:
        """Raises :class:`rlopt.errors.RunError` if the folder of a run was deleted while it trains."""
        if not self.config.is_file():
            raise RunError(
                f"the run folder {self.path} is gone: it was deleted or moved while the run trained, or the "
                "environment has changed the working directory; start the run anew"
            )

    @property
    def quoted(self) -> str:
        """Its path as a word of a command line."""
        return shell_quote(str(self.path))

    @property
    def command(self) -> str:
        """The command that continues this run."""
        address = cluster_of(self.config)
        option = "" if address is None else f" --address {shell_quote(address)}"
        return f"rlopt resume {self.quoted}{self.env_option}{self.agent_option}{option}"

    @property
    def agent_option(self) -> str:
        """What a command on this run says besides if its agent is a class, which a file cannot have imported."""
        return _named("agent", self._settings().get("agent"))

    @property
    def env_option(self) -> str:
        """The same of an environment that a module registers."""
        settings = self._settings()
        run = settings.get("run")
        return _named("env", run.get("env") if isinstance(run, dict) else settings.get("env"))

    def _settings(self) -> dict[str, Any]:
        """What the file says of agent and environment, also of several runs."""
        settings: Any = _content(self.config)
        for part in ("sweep", "tune", "base"):
            settings = settings.get(part, settings) if isinstance(settings, dict) else {}
        return settings if isinstance(settings, dict) else {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; raises :class:`rlopt.errors.RunError` if another one trains in it.

        The lock is the system's and ends with the process, also one that is killed.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(
                f"cannot write to run folder {self.path} ({error.strerror}): choose another --run-dir"
            ) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"run folder {self.path} is in use by another rlopt process: wait for it or stop it"
                ) from None
            yield
        finally:
            os.close(handle)

    def write_config(self, agent: str, run: RunConfig, agent_config: Any) -> None:
        """Writes the resolved settings, so that the run can be read and continued."""
        settings = {"agent": agent, "run": dataclasses.asdict(run), "agent_config": dataclasses.asdict(agent_config)}
        write_json(self.config, settings)

    def read_config(self) -> tuple[str, RunConfig, Any]:
        """The agent's name, the run's settings and the agent's settings, as :meth:`write_config` wrote them.

        :raises rlopt.errors.RunError: for a folder that is not a run folder, or settings that are damaged
        :raises rlopt.errors.ConfigError: for settings or an agent that this version does not know, or a class that
            was not named here, see :func:`rlopt.registry.import_agent`
        """
        if not self.config.is_file():
            hint = "it does not exist" if not self.path.exists() else "it holds no config.json"
            raise RunError(f"{self.path} is not a run folder ({hint}): give the folder that rlopt train printed")
        settings = read_json(self.config, "start a new run")
        if not isinstance(settings, dict) or not {"agent", "run", "agent_config"} <= settings.keys():
            raise RunError(f"{self.config} is damaged: agent, run or agent_config is missing; start a new run")
        for part in ("run", "agent_config"):
            if not isinstance(settings[part], dict):
                raise RunError(f"{self.config} is damaged: {part} is not a mapping of settings; start a new run")
        if not settings["run"].get("env"):
            raise RunError(f"{self.config} is damaged: the environment's id is missing; start a new run")
        agent, agent_settings = former_agent(str(settings["agent"]), settings["agent_config"])
        config_class = resolve(agent_spec(agent).config)
        run = from_mapping(RunConfig, settings["run"], str(self.config))
        own = without_former(config_class, agent_settings, str(self.config))
        refuse_import(run.env, str(self.config))
        return agent, run, from_mapping(config_class, own, str(self.config))

    def record_versions(self, extra: Mapping[str, Any], *, resumed_at: int | None = None) -> list[str]:
        """Writes what is installed; on resume appends it and returns one line for each package that changed.

        :raises rlopt.errors.RunError: if the file that is there is damaged
        """
        now = {**environment_record(), **extra}
        if resumed_at is None or not self.versions.is_file():
            write_json(self.versions, now)
            return []
        cure = "remove it to continue without a comparison of versions"
        before = read_json(self.versions, cure)
        if not isinstance(before, dict) or not isinstance(before.get("packages"), dict):
            raise RunError(f"{self.versions} is damaged: {cure}")
        old, new = before["packages"], now["packages"]
        resumed = before.get("resumed")
        resumed = resumed if isinstance(resumed, list) else []
        write_json(self.versions, {**before, "resumed": [*resumed, {"step": resumed_at, **now}]})
        return [
            f"{name} is {new.get(name) or 'not installed'}, the run was started with {old.get(name) or 'none'}: "
            "the continuation may differ from the uninterrupted run"
            for name in EXACTNESS_PACKAGES
            if new.get(name) != old.get(name)
        ]


def cluster_of(file: Path) -> str | None:
    """The address of the Ray cluster on other machines that a file of settings names; its programs reach this one."""
    content = _content(file)
    for part in (content.get("engine"), content.get("agent_config")):
        address = part.get("address") if isinstance(part, dict) else None
        if address is not None and address != "auto":
            return str(address)
    return None


def _content(file: Path) -> dict[str, Any]:
    """A file of settings; empty where it cannot be read."""
    try:
        content = read_json(file)
    except RloptError:
        return {}
    return content if isinstance(content, dict) else {}


def _named(option: str, value: Any) -> str:
    """The option that names what is imported: texts with a colon, of ``value`` or a list of such."""
    values = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    return "".join(f" --{option} {shell_quote(text)}" for text in dict.fromkeys(values) if ":" in text)


def trained_agents() -> dict[str, Path]:
    """The run folders of the agents that come with rlopt, by name: ``rlopt/half-cheetah`` and others."""
    return {f"rlopt/{path.parent.name}": path.parent for path in sorted(TRAINED.glob("*/config.json"))}


def named_run(path: Path) -> Path:
    """``path``, or the folder of the agent of that name which comes with rlopt, where there is no such path.

    :raises rlopt.errors.UnknownNameError: ``path`` is ``rlopt/`` and a name that none has
    """
    if path.exists() or len(path.parts) != 2 or path.parts[0] != "rlopt":
        return path
    agents = trained_agents()
    if path.as_posix() not in agents:
        raise unknown_name("trained agent", path.as_posix(), agents)
    return agents[path.as_posix()]


def run_folders(path: Path) -> list[Path]:
    """``path`` if it is a run folder; the run folders in it, by seed, if several seeds, or a sweep, made it."""
    path = named_run(path)
    if RunFolder(path).config.is_file() or not path.is_dir():
        return [path]
    if any((path / name).is_file() for name in (SWEEP_FILE, TUNE_FILE)):
        groups = sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name not in ("results", "logs"))
        return [run for group in groups for run in run_folders(group) if run != group] or [path]
    found = [
        entry for entry in path.iterdir() if re.fullmatch(r"seed\d+", entry.name) and (entry / "config.json").is_file()
    ]
    return sorted(found, key=lambda entry: int(entry.name[4:])) or [path]


def named_runs(names: Iterable[str | Path], others: Callable[[Path], list[Path]] = lambda path: []) -> list[Path]:
    """The run folders that a command line names: folders, folders of several seeds, and patterns such as ``runs/*``.

    Of what a pattern matches, only folders with runs are taken.

    :param others: what else than a run folder a path may name: the runs that it holds, none if none
    :raises rlopt.errors.RunError: if a pattern matches no run
    """
    found: list[Path] = []
    for name in names:
        if Path(name).exists() or not glob.has_magic(str(name)):
            runs = run_folders(Path(name))
            found += runs if RunFolder(runs[0]).config.is_file() else others(Path(name)) or runs
            continue
        runs = []
        for path in map(Path, sorted(glob.glob(str(name)))):
            matched = [run for run in run_folders(path) if RunFolder(run).config.is_file()]
            runs += matched or others(path)
        if not runs:
            raise RunError(f"{name} matches no run folder: give folders that rlopt train printed")
        found += runs
    return found


def default_folder(agent: str, run: RunConfig, which: str) -> Path:
    """``runs/<agent>-<env>-<which>-<UTC time>``, with characters that are awkward in paths replaced.

    :param which: what tells it from other runs of the agent, such as "seed0"
    """
    name, env = (re.sub(r"[^A-Za-z0-9._-]+", "_", text) for text in (agent, run.env))
    stem = f"{name}-{env}-{which}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path, copies = Path("runs") / stem, 1
    while path.exists():
        copies += 1
        path = Path("runs") / f"{stem}-{copies}"
    return path


def write_json(path: Path, value: Any, shared: bool = False) -> None:
    """Writes ``value`` so that a reader finds the old file or the new one, whole, whatever happens.

    :param shared: whether other processes, on other machines too, may write the same file at the same time
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp" if shared else f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path, cure: str = "") -> Any:
    """Reads a JSON file.

    :raises rlopt.errors.RunError: with the ``cure``, if it is none, or too large for one of a run
    :raises rlopt.errors.ResourceError: it cannot be read for want of memory or a permission, or as the disk fails
    """
    try:
        with open_plain(path, follow=True) as file:
            if os.fstat(file.fileno()).st_size > _MAX_JSON_BYTES:
                raise ValueError(f"it is over {_MAX_JSON_BYTES} bytes")
            text = file.read().decode("utf-8")
        check_size(text)
        return json.loads(text)
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        if (lack := resource_error(error, f"{path} cannot be read")) is not None:
            raise lack from None
        reason = f"{path} cannot be read: {one_line(error)}"
        raise RunError(f"{reason}; {cure}" if cure else reason) from None


def environment_record() -> dict[str, Any]:
    """Packages, Python, machine, git revisions and command line of this process."""
    source = Path(rlopt.__file__).resolve().parent
    return {
        "packages": {name: installed_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(source.parent) if (source.parent / ".git").exists() else None,
        "working_directory_git_revision": _git_revision(Path.cwd()),
        "command_line": shell_join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision(folder: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def shell_quote(text: str) -> str:
    """``text`` as a word of a POSIX shell."""
    import shlex

    return shlex.quote(text)


def shell_join(words: list[str]) -> str:
    """``words`` as a command line of a POSIX shell, the program without its folder."""
    program = Path(words[0]).name if words else ""
    return " ".join([shell_quote(program), *(shell_quote(word) for word in words[1:])])
