"""A Postgres server of the tests' own, where its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@contextmanager
def running(bin_folder: Path) -> Iterator[str]:
    """A server on a socket in a folder of its own; yields the URL of its database ``postgres``."""
    # The programs refuse to run as root.
    user = None
    if os.getuid() == 0:
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder = Path(name)
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = folder / "data"
        settings = {"cwd": folder, "user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([bin_folder / "initdb", "-D", data, "-U", "rlopt", "-A", "trust", "-N"], check=True, **settings)
        options = ("-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60")
        server = subprocess.Popen([bin_folder / "postgres", "-D", data, *options], **settings)
        try:
            url = f"postgresql://rlopt@/postgres?host={folder}"
            _wait(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    import time

    import psycopg

    for _ in range(300):
        assert server.poll() is None, "postgres did not start"
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("postgres does not answer")
