"""Files that appear under their name whole, or not at all. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlopt.errors import RloptError, one_line


@contextmanager
def replacing(path: Path, refusal: type[RloptError], cure: str) -> Iterator[Path]:
    """Yields a place beside ``path``, which takes its name at the end of the block; after an error nothing is left.

    :param refusal: what is raised where the file system refuses
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise refusal(f"{path} cannot be written ({error.strerror or one_line(error)}): {cure}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
