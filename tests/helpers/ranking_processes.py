"""Trainer and server of a ranking study as processes that can be killed, and people who rank over HTTP.

The processes are forks of one that has imported all they need, so that a new one is there in a moment.
"""

import multiprocessing
import random
import socket
import sys
import threading
import time
from typing import Any

import httpx2
from ranking_client import csrf_of, exact_answer, press_begin
from ranking_study import make_study, optimizer

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.feedback.server.serving import ServeSettings, serve
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy

TOKEN = "a-token-that-stays-the-same-for-all-servers"
_context = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
_context.set_forkserver_preload(["ranking_processes", "rlopt.feedback.server.app", "uvicorn", "imageio.v3"])


def study_of(store: StudyStore, annotators: int, people: int) -> HumanStudy:
    """The study, with rounds open for so many people at once; 0 for one round at a time."""
    search = ParallelSearch.for_people(optimizer(), people) if people else None
    return make_study(store, search=search, annotators=annotators)


def train(url: str, media: str, rounds: int, annotators: int, people: int) -> None:
    """Steps the study until so many rounds are consumed in all."""
    study = study_of(StudyStore(url, media=media), annotators, people)
    while study.iteration < rounds:
        study.step()
    study.finish()


def serve_study(url: str, media: str, port: int) -> None:
    """Serves the study, as ``rlopt rank serve`` does."""
    store = StudyStore(url, media=media, create=False)
    settings = ServeSettings(port=port, token=TOKEN, raters=1000, requests_per_second=1e6, minimum_seconds=0.0)
    serve(store, store.study(), settings, lambda line: None)


class Processes:
    """The trainer and the server of one study."""

    def __init__(self, store: StudyStore, rounds: int, annotators: int = 1, people: int = 0) -> None:
        study_of(store, annotators, people)
        place = (store.database.url.render_as_string(hide_password=False), str(store.media_root))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.base = f"http://127.0.0.1:{self.port}"
        self._starts = {
            "trainer": (train, (*place, rounds, annotators, people)),
            "server": (serve_study, (*place, self.port)),
        }
        self._running: dict[str, Any] = {}
        for which in self._starts:
            self.start(which)

    def start(self, which: str) -> None:
        """Starts the trainer or the server."""
        target, arguments = self._starts[which]
        self._running[which] = _context.Process(target=target, args=arguments, daemon=True)
        self._running[which].start()

    def kill(self, which: str) -> bool:
        """SIGKILL; returns whether it was still running."""
        alive = bool(self._running[which].is_alive())
        self._running[which].kill()
        self._running[which].join()
        return alive

    def stop(self) -> None:
        for which in self._running:
            self.kill(which)


class Person(threading.Thread):
    """Ranks exactly until the study is finished, and tries again whenever the server is not there.

    What was accepted is kept: key -> (round, revision).
    """

    def __init__(self, store: StudyStore, base: str, seed: int = 0) -> None:
        super().__init__(daemon=True)
        self._store, self._base, self._random = store, base, random.Random(seed)
        self.accepted: dict[str, tuple[str, int]] = {}
        self._given: Any = None
        self.failure: BaseException | None = None
        self._unfinished, self._keys, self._seed = True, 0, seed

    def run(self) -> None:
        try:
            with httpx2.Client(base_url=self._base, timeout=10) as client:
                self._patiently(lambda: press_begin(client, TOKEN, self._base))
                headers = {**self._patiently(lambda: csrf_of(client)), "Origin": self._base}
                while self._unfinished:
                    self._round(client, headers)
        except BaseException as error:
            self.failure = error

    def _round(self, client: Any, headers: dict[str, str]) -> None:
        shown, self._given = self._given, None
        if shown is None:
            leased = self._patiently(lambda: client.post("/api/lease", json={}, headers=headers)).json()
            shown = leased["round"]
        if shown is None:
            self._unfinished = leased["progress"]["state"] != "finished"
            time.sleep(0.005)
            return
        self._keys += 1
        key = f"{self._seed} {self._keys}"
        body = {**exact_answer(self._store, shown, key), "next": self._random.random() < 0.5}
        place = f"/api/rounds/{shown['id']}/answer"
        for _ in range(1 + (self._random.random() < 0.3)):  # an answer that is sent twice counts once
            said = self._patiently(lambda: client.post(place, json=body, headers=headers))
            if said.status_code == 200:
                answer = (shown["id"], said.json()["revision"])
                assert self.accepted.setdefault(key, answer) == answer
                self._given = said.json()["round"]
            else:
                assert said.status_code == 409, said.text

    def _patiently(self, action: Any) -> Any:
        for _ in range(3000):
            try:
                return action()
            except httpx2.TransportError:
                time.sleep(0.02)
        raise AssertionError("the server did not come back")
