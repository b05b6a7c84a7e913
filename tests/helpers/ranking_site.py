"""A ranking study as people meet it: the real server, trainer and database."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import uvicorn
from ranking_study import objective, values_of
from ranking_study import render as render_images

from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.feedback.clips import Clip, write_clip
from rlopt.feedback.ranking import Ranking
from rlopt.feedback.schema import answer, event, optimizer_state, round_
from rlopt.feedback.server.app import make_app
from rlopt.feedback.store import open_store
from rlopt.feedback.study import HumanStudy

FPS = 10.0
WAIT = 20.0
"""Seconds after which a test gives up."""


def render_videos(query: Any, folder: Path) -> list[Clip]:
    """A block that moves; the lower the objective, the further it gets. Clips differ in length, as episodes do."""
    clips = []
    for slot, value in enumerate(objective(query.candidates)):
        frames = []
        for t in range(16 + 4 * (slot % 3)):
            frame = np.full((48, 64, 3), 235, np.uint8)
            left = int(52 * t / (24 * (1 + value)))
            frame[18:30, left : left + 12] = (190, 90, 40)
            frames.append(frame)
        clips.append(write_clip(folder / f"{slot}.mp4", frames, FPS, seeds=(slot,), hidden_return=-float(value)))
    return clips


class Site:
    """A study with a trainer in a thread of its own and a server that can be stopped and started again.

    :param rounds: after so many the trainer finishes the study
    :param settings: of :class:`HumanStudy`; ``media`` is image, which is quick, or video; besides ``lease_seconds``,
        ``token``, ``names`` and ``protocol`` of the server
    """

    def __init__(self, folder: Path, search: Any, rounds: int, **settings: Any) -> None:
        self._folder, self._search, self._rounds = folder, search, rounds
        self._lease_seconds, self._token = settings.pop("lease_seconds", 60.0), settings.pop("token", None)
        self._names, self._protocol = settings.pop("names", ()), settings.pop("protocol", None)
        self.store = open_store(folder, create=True)
        given = {"media": "image", "undo_seconds": 0.0, "poll_seconds": 0.01, "deadline_seconds": 0.1, **settings}
        render = render_videos if given["media"] == "video" else render_images
        self.study = HumanStudy(self.store, "blocks", search, render, **given)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._stop = threading.Event()
        self.trouble: BaseException | None = None
        self._trainer = threading.Thread(target=self._train)
        self._trainer.start()
        self._server: uvicorn.Server | None = None
        self.start_server()

    def _train(self) -> None:
        try:
            while not self._stop.is_set() and self.study.iteration < self._rounds:
                self.study.step()
            if not self._stop.is_set():
                self.study.finish()
        except BaseException as error:
            self.trouble = error

    def start_server(self) -> None:
        """Serves on the address of before."""
        store = open_store(self._folder)
        given = {"token": self._token, "names": self._names, "protocol": self._protocol}
        app = make_app(store, store.study(), lease_seconds=self._lease_seconds, **given)
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self._port))
        self._serving = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]})
        self._serving.start()
        wait_until(lambda: self._server is not None and self._server.started, "the server starts")

    def stop_server(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._serving.join(WAIT)
            self._server = None

    def close(self) -> None:
        self._stop.set()
        self.stop_server()
        self._trainer.join(WAIT)
        assert not self._trainer.is_alive() and self.trouble is None, self.trouble

    def values(self, clips: list[str]) -> list[float]:
        """The objective behind clip ids, looked up in the database as no browser can."""
        found = values_of(self.store, clips)
        return [found[clip] for clip in clips]

    def consumed(self) -> int:
        with self.store.database.read() as connection:
            rows = sa.select(sa.func.count()).select_from(round_).where(round_.c.status == "consumed")
            return int(connection.execute(rows).scalar_one())

    def answers(self) -> list[Any]:
        """All revisions of all answers, in the order in which they came."""
        with self.store.database.read() as connection:
            return list(connection.execute(sa.select(answer).order_by(answer.c.id)).mappings())

    def events(self) -> list[str]:
        """The kinds of what happened, in that order."""
        with self.store.database.read() as connection:
            return list(connection.execute(sa.select(event.c.kind).order_by(event.c.id)).scalars())

    def digest(self) -> str:
        """Of the stored state of the optimiser."""
        with self.store.database.read() as connection:
            last = sa.select(optimizer_state.c.digest).order_by(optimizer_state.c.iteration.desc()).limit(1)
            return str(connection.execute(last).scalar_one())


def simulated(search: ZORankSGD, rounds: int) -> str:
    """The digest of a search after so many answers of an exact oracle."""
    for _ in range(rounds):
        query = search.ask()
        search.tell([Ranking.from_values(objective(query.candidates), query.k)])
    return search.digest()


def wait_until(condition: Any, what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT:g} s in vain until {what}"
        time.sleep(0.02)
