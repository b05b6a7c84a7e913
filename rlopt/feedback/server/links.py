"""The links of a study, kept beside its clips so that they stay the same when the server starts again."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlopt.errors import StudyError
from rlopt.feedback.store import Study, StudyStore, digest
from rlopt.storage.json import dump_json


@dataclass(frozen=True)
class Links:
    """Secrets: the file is readable by its owner alone."""

    token: str
    """What the raters' link carries."""
    owner_token: str
    """What the link to the results carries."""
    since: float
    """When the raters' link was made."""
    port: int = 0
    """At which it was served last."""


def links_file(store: StudyStore, study: Study) -> Path:
    """Where the links of a study are kept: in the media folder, of which the server sends clips alone."""
    return store.media_root / f".links-{digest(f'{study.id} {study.name}')[:12]}.json"


def find_links(store: StudyStore, study: Study, token: str | None = None) -> Links:
    """The links of before, or new ones.

    :param token: one's own, in place of the raters'
    :raises StudyError: they cannot be written
    """
    found = read_links(store, study)
    if found is None or token not in (None, found.token):
        owner = secrets.token_urlsafe(32) if found is None else found.owner_token
        found = Links(token or secrets.token_urlsafe(32), owner, store.clock(), 0 if found is None else found.port)
        keep_links(store, study, found)
    return found


def read_links(store: StudyStore, study: Study) -> Links | None:
    """The links of before; None where there are none, or the file is damaged."""
    try:
        found = json.loads(links_file(store, study).read_text(encoding="utf-8"))
        made = Links(str(found["token"]), str(found["owner_token"]), float(found["since"]), int(found["port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made


def keep_links(store: StudyStore, study: Study, links: Links) -> None:
    """Writes them, whole or not at all.

    :raises StudyError: the file system refuses
    """
    path = links_file(store, study)
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(dump_json(asdict(links)))
        os.replace(new, path)
    except OSError as error:
        raise StudyError(f"the links of the study cannot be kept in {path.parent} ({error.strerror}): use another "
                         "--media") from None  # fmt: skip


def served_at(store: StudyStore, study: Study, links: Links, port: int) -> None:
    """Notes the port for the next time."""
    if links.port != port:
        keep_links(store, study, replace(links, port=port))
