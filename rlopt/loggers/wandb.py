"""Weights & Biases as a further writer of a run (extra ``wandb``): what progress.csv gets, at the same steps.

Every row is sent to W&B once, even if the run is killed and continues from an earlier step: the steps that it then
repeats were sent before, and W&B takes no row back. ``wandb.json`` in the run folder records what was sent last.
Nothing here ends a training run: without network, login or a sound answer the rows are kept in the run folder, for
``wandb sync``.
"""

import os
import re
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

from rlopt.errors import ConfigError, RunError, one_line
from rlopt.loggers.writers import is_scalar, plain
from rlopt.run_folder import RunFolder, read_json, shell_quote, write_json
from rlopt.settings.run import RunConfig
from rlopt.settings.wandb import INSTALL, check_wandb
from rlopt.storage.csv_rows import csv_rows

SECONDS = {"init_timeout": 30.0, "finish_timeout": 60.0}
"""How long a run waits for W&B at its begin and its end; WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT go before."""
PROBE_SECONDS = 5.0
"""How long it waits for any sign of the server before that."""
IDENTITY_FILE = "wandb.json"
_IDENTIFIER = re.compile(r"[a-z0-9_-]{1,64}", re.IGNORECASE)


@dataclass
class Identity:
    """Which W&B run a run folder is, and how far W&B knows it."""

    id: str
    step: int = -1
    """Step of the newest row that W&B was given; -1 for none."""
    offline_step: int = -1
    """Step of the newest row that was written to files for ``wandb sync``; -1 for none."""
    project: str = ""
    url: str | None = None
    """None where W&B was never reached."""


class WandbLog(KVWriter):
    """Sends the rows of progress.csv that W&B does not have yet.

    :param run: as ``wandb.init`` returned it
    :param note: called with the step of a row before it is sent
    :param sent: step of the newest row that W&B has
    :param say: where a line goes when W&B fails; then nothing more is sent
    """

    exit_code = 0
    """What W&B shows as the end of the run."""

    def __init__(self, run: Any, note: Callable[[int], None], sent: int, say: Callable[[str], None]) -> None:
        self._run, self._note, self.sent, self._say = run, note, sent, say

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Sends what the agent logged at ``step``; of the values, those that progress.csv has too."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        self.send(step, {key: plain(value) for key, value in values.items() if is_scalar(value)})

    def send(self, step: int, values: Mapping[str, Any]) -> None:
        """A row, unless W&B has one of this step or a later one."""
        if self._run is None or step <= self.sent:
            return
        # Noted first: a kill in between costs the row rather than sends it twice.
        self.sent = step
        self._note(step)
        try:
            self._run.log({"step": step, **values}, step=step, commit=True)
        except Exception as error:
            self._say(f"warning: W&B fails, and is sent no more rows ({one_line(error)}); all are in progress.csv")
            self._run = None

    def close(self) -> None:
        """Ends the W&B run, and says how to send what it did not take in time."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=self.exit_code)
        except TimeoutError:
            again = f"wandb sync --include-online {_parent(self._run.dir)}"
            self._say(f"warning: W&B did not take every row in time; send the rest with: {again}")
        except Exception as error:
            self._say(f"warning: W&B fails at the end of the run: {one_line(error)}")
        self._run = None


def open_wandb(folder: RunFolder, run: RunConfig, say: Callable[[str], None]) -> WandbLog | None:
    """The writer of a run whose settings ask for one, with the rows that W&B lacks of those in progress.csv.

    :param folder: folder of the run, with its config.json, versions.json and, cut to the checkpoint, progress.csv
    :param say: is told where the rows go
    :returns: None if W&B was not asked for, is disabled, or cannot be used at all
    :raises rlopt.errors.ConfigError: if the package is not installed, or for settings that W&B has not
    :raises rlopt.errors.RunError: if wandb.json is damaged
    """
    if run.wandb is None:
        return None
    check_wandb(run)
    if (run.wandb_mode or os.environ.get("WANDB_MODE")) == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        raise ConfigError(INSTALL) from None
    path = folder.path / IDENTITY_FILE
    identity = _read_identity(path)
    started = _begin(wandb, folder, run, identity, say)
    if started is None:
        return None
    identity.project, identity.url = run.wandb, started.url or identity.url
    offline = bool(started.offline)
    # Online the server knows best what arrived before a run was killed; what is in files is still on its way.
    sent = identity.step if offline else max(int(started.starting_step) - 1, identity.offline_step)

    def note(step: int) -> None:
        identity.step = step
        if offline:
            identity.offline_step = step
        write_json(path, asdict(identity))

    note(sent)
    log = WandbLog(started, note, sent, say)
    for step, values in _rows(folder.path / "progress.csv"):
        log.send(step, values)
    return log


def _begin(wandb: Any, folder: RunFolder, run: RunConfig, identity: Identity, say: Callable[[str], None]) -> Any:
    """The W&B run, begun or continued; offline if W&B cannot be reached, None if that fails too."""
    settings: dict[str, Any] = {"silent": True, "console": "off", "finish_timeout_raises": True}
    settings |= {name: value for name, value in SECONDS.items() if f"WANDB_{name.upper()}" not in os.environ}
    config = _config(folder)
    if config.pop("database", None):  # its URL, which the command line has too, may hold a password
        settings["x_disable_meta"] = True
    name = folder.path.resolve().name
    if re.fullmatch(r"seed\d+", name):
        name = f"{folder.path.resolve().parent.name}/{name}"
    arguments: dict[str, Any] = {
        "project": run.wandb,
        "entity": run.wandb_entity,
        "group": run.wandb_group,
        "name": os.environ.get("WANDB_NAME") or name,
        "dir": os.environ.get("WANDB_DIR") or str(folder.path),
        "id": identity.id,
        "config": config,
        "allow_val_change": True,
        "resume": "allow",
        # Beside others of this process: those of other seeds, or of who called.
        "reinit": "create_new",
        "settings": settings,
    }
    mode = run.wandb_mode
    try:
        base = wandb.setup(wandb.Settings(silent=True)).settings  # silent: never asks for a login, holding up the run
        if (mode or base.mode) == "online":
            _probe(base.base_url)
        started = wandb.init(mode=mode, **arguments)
    except Exception as error:
        started = _offline(wandb, arguments, one_line(error), say)
    else:
        if started.offline:
            say(f"W&B: offline; send the run later with: wandb sync {_parent(started.dir)}")
        elif not started.disabled:
            say(f"W&B: {started.url}")
    if started is None or started.disabled:
        return None
    started.define_metric("step")
    started.define_metric("*", step_metric="step")
    return started


def _probe(url: str) -> None:
    """Raises OSError at once where no server answers, for which ``wandb.init`` would wait."""
    try:
        urllib.request.urlopen(url, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # certificates are wandb's own business
            raise OSError(f"{url}: {error.reason}") from None


def _offline(wandb: Any, arguments: Mapping[str, Any], reason: str, say: Callable[[str], None]) -> Any:
    # W&B keeps the identifier of a run that it could not begin, so the files have another, which --id mends.
    identifier = secrets.token_hex(6)
    try:
        started = wandb.init(mode="offline", **{**arguments, "id": identifier})
    except Exception as error:
        say(f"warning: W&B cannot be used, and the run continues without it: {one_line(error)}")
        return None
    sync = f"wandb sync --id {shell_quote(str(arguments['id']))} {_parent(started.dir)}"
    say(f"W&B cannot be used online ({reason.rstrip('. ')}): offline; send the run later with: {sync}")
    return started


def _parent(files: str) -> str:
    """The folder of a W&B run, as a word of a command line, from that of its files."""
    return shell_quote(os.path.relpath(Path(files).parent))


def _config(folder: RunFolder) -> dict[str, Any]:
    """The resolved settings by their flags' names, the versions, and the run folder's name without where it lies."""
    settings = read_json(folder.config)
    versions = read_json(folder.versions)
    config = {"agent": settings["agent"], **settings["run"], **settings["agent_config"]}
    config |= {"run_folder": folder.path.resolve().name, "python": versions.get("python")}
    config["versions"] = versions.get("packages")
    for name in ("run_dir", "wandb", "wandb_entity", "wandb_group", "wandb_mode"):
        config.pop(name, None)
    return config


def _read_identity(path: Path) -> Identity:
    if not path.is_file():
        return Identity(secrets.token_hex(6))
    cure = "remove it to begin another W&B run"
    content = read_json(path, cure)
    try:
        identity = Identity(**content)
        sound = bool(_IDENTIFIER.fullmatch(identity.id)) and identity.step + identity.offline_step >= -2
    except TypeError:
        sound = False
    if not sound:
        raise RunError(f"{path} is damaged: {cure}")
    return identity


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of progress.csv."""
    rows = csv_rows(path, None, None)
    names = next(rows, [])
    for cells in rows:
        row = dict(zip(names, cells, strict=False))
        step = int(row.pop("step"))
        yield step, {key: _number(text) for key, text in row.items() if text}


def _number(text: str) -> bool | int | float | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
