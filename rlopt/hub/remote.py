"""Packed runs on the Hugging Face Hub: pushed, pulled, listed. Needs ``pip install 'rlopt[hub]'``."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlopt.errors import ConfigError, RunError, one_line
from rlopt.hub.card import LIBRARY
from rlopt.hub.pack import CARD, CURVE, EVALUATION, EVALUATIONS, VIDEO, acting_checkpoint, pack_run

FILES = ("config.json", "versions.json", EVALUATION, EVALUATIONS, VIDEO, CURVE, CARD)
_CHECKPOINT = re.compile(r"checkpoints/step-\d{12,18}/[a-z0-9_]+\.(json|safetensors)")
MOST_BYTES = 4 * 2**30
"""Of all files of a repository that are fetched."""


@dataclass(frozen=True)
class Listed:
    """An agent on the Hub."""

    repo: str
    tags: tuple[str, ...]
    downloads: int


def push(run: Path, repo: str, checkpoint: str | None = None, private: bool = False) -> str:
    """Packs the policy of a run and uploads it in one commit; returns the address of the repository.

    :param run: run folder or checkpoint
    :param repo: USER/NAME, made if it is not there
    :param checkpoint: as in :func:`rlopt.hub.pack.pack_run`
    :param private: whether a repository that is made is private
    :raises RunError: the run cannot be packed, or the Hub refuses
    """
    api = _api()
    with tempfile.TemporaryDirectory(prefix="rlopt-hub-") as place:
        packed = pack_run(run, Path(place) / "packed", checkpoint, repo)
        with _one_line(repo):
            url = api.create_repo(repo, private=private, exist_ok=True)
            # A checkpoint that was pushed before would be the newest if its step is greater.
            api.upload_folder(repo_id=repo, folder_path=packed, delete_patterns=["checkpoints/**"])
    return str(url)


def pull(repo: str, out: Path, revision: str | None = None) -> Path:
    """Fetches a packed run to ``out`` and verifies its checkpoint. Nothing is executed, and no other file fetched.

    :param revision: branch, tag or commit; None for the newest
    :raises RunError: the Hub refuses, the repository holds no packed run, or ``out`` holds files
    :raises CheckpointError: the checkpoint is damaged
    """
    api = _api()
    from huggingface_hub import snapshot_download

    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} holds files: give --out a new folder")
    with _one_line(repo):
        info = api.model_info(repo, revision=revision, files_metadata=True)
        files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = [name for name in files if name in FILES or _CHECKPOINT.fullmatch(name)]
        if "config.json" not in wanted or not any(name.endswith("/manifest.json") for name in wanted):
            raise RunError(f"{repo} holds no agent of rlopt: rlopt hub list shows those that do")
        if sum(files[name] for name in wanted) > MOST_BYTES:
            raise RunError(f"{repo} is over {MOST_BYTES} bytes: no policy is so large")
        snapshot_download(repo, revision=info.sha, local_dir=out, allow_patterns=wanted)
    acting_checkpoint(out)
    return out


def listed(author: str | None = None, search: str | None = None, limit: int = 50) -> list[Listed]:
    """Agents of rlopt on the Hub, the most downloaded first.

    :param author: user or organisation
    :param search: part of the name
    :raises RunError: the Hub refuses
    """
    api = _api()
    with _one_line("the list"):
        models = api.list_models(filter=LIBRARY, author=author, search=search, sort="downloads", limit=limit)
        return [Listed(model.id, tuple(model.tags or ()), model.downloads or 0) for model in models]


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging
    except ImportError:
        raise ConfigError("the Hugging Face Hub needs huggingface_hub: pip install 'rlopt[hub]'") from None
    logging.set_verbosity_error()  # what fails is said once, here
    return HfApi(library_name=LIBRARY)


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns what huggingface_hub and the network raise into one line with the cure."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except RunError:
        raise
    except HFValidationError as error:
        raise ConfigError(f"{what!r} is not a name of a repository: give USER/NAME ({one_line(error)})") from None
    except RepositoryNotFoundError:
        raise RunError(
            f"the Hub has no {what}, or it is private: check the name, or log in with hf auth login"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        cure = "log in with hf auth login, with a token that may write" if status in (401, 403) else "try again"
        raise RunError(f"the Hub refuses {what} ({one_line(error)[:200]}): {cure}") from None
    except Exception as error:  # of whatever library the Hub's client reaches the network with
        raise RunError(
            f"the Hub cannot be reached for {what} ({type(error).__name__}: {one_line(error)[:200]}): check the network"
        ) from None
