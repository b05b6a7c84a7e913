"""The server of a ranking study under many raters at once: how long an answer takes to be stored, on this machine.

Every rater is an HTTP client that takes a round, and answers it, which brings the next one, as the page does; the
trainer opens rounds of a search that costs nothing. The server is a process of its own, as ``rlopt rank serve`` starts
it. Latencies are those of the requests, from the first byte sent to the last received. At the end every accepted answer
is looked up in the database.

    python scripts/benchmark_feedback.py
    python scripts/benchmark_feedback.py --raters 20 --answers 2000 --url postgresql://USER@HOST/NAME
    python scripts/benchmark_feedback.py --raters 50 --open 1000 --clips 10    # 10,000 clips wait at once
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TOKEN = "benchmark-of-the-feedback-server"


def render(query: Any, folder: Path) -> list[Any]:
    """The same small image for every candidate, in one file."""
    import numpy as np

    from rlopt.feedback.clips import write_image

    image = np.zeros((4, 4, 3), np.uint8)
    return [write_image(folder / "same.png", image)] * len(query.candidates)


class Rater(threading.Thread):
    """Ranks as fast as the server answers, over one connection."""

    def __init__(self, base: str, number: int, pause: float, stays: bool) -> None:
        super().__init__(daemon=True)
        self._number, self._pause, self._stays = number, pause, stays
        self._connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=60)
        self._headers = {"Origin": base}
        self.seconds: dict[str, list[float]] = {"lease": [], "answer": []}
        self.accepted: set[str] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._enter()
            shown = None
            while True:
                time.sleep(self._pause if shown is not None else 0.0)
                given = self._post("lease", "/api/lease", {}) if shown is None else self._answer(shown)
                shown = given["round"]
                if shown is None:
                    if not self._stays or given["progress"]["state"] == "finished":
                        return
                    time.sleep(0.02)
        except BaseException as error:
            self.failure = error

    def _enter(self) -> None:
        form = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        _, headers = self._asked("POST", "/enter", f"token={TOKEN}", form)
        self._headers["Cookie"] = headers["Set-Cookie"].partition(";")[0]
        page, _ = self._asked("GET", "/", None, self._headers)
        found = re.search(rb'csrf-token" content="(\w+)"', page)
        assert found is not None
        self._headers |= {"X-CSRF-Token": found[1].decode(), "Content-Type": "application/json"}

    def _answer(self, shown: dict[str, Any]) -> Any:
        key = f"{self._number} {len(self.accepted)}"
        body = {"key": key, "tiers": [[clip["id"]] for clip in shown["clips"]], "seconds": 1.0, "next": True}
        given = self._post("answer", f"/api/rounds/{shown['id']}/answer", body)
        self.accepted.add(key)
        return given

    def _post(self, what: str, path: str, body: dict[str, Any]) -> Any:
        began = time.perf_counter()
        content, _ = self._asked("POST", path, json.dumps(body), self._headers)
        self.seconds[what].append(time.perf_counter() - began)
        return json.loads(content)

    def _asked(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[bytes, Any]:
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        assert response.status in (200, 303), content
        return content, response.headers


def started(place: str, media: Path) -> tuple[subprocess.Popen[str], str]:
    """The server of a study, and its address."""
    command = [sys.executable, "-m", "rlopt.cli.main", "rank", "serve", place, "--media", str(media), "--token", TOKEN]
    command += ["--raters", "1000", "--minimum-seconds", "0", "--requests-per-second", "100000"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().partition("/?")[0]


def used(process: subprocess.Popen[str]) -> float:
    """Seconds of CPU time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(place: str, media: Path, args: argparse.Namespace) -> None:
    import numpy as np
    import sqlalchemy as sa

    from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
    from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
    from rlopt.feedback import schema
    from rlopt.feedback.store import open_store
    from rlopt.feedback.study import HumanStudy, replay

    def search() -> Any:
        made = ZORankSGD(np.zeros(10), m=args.clips, k=args.clips, line_search_points=0)
        return ParallelSearch(made, args.open, 0) if args.open else made

    rounds = args.open or -(-args.answers // args.raters)
    store = open_store(place, media, create=True)
    annotators = 1 if args.open else args.raters
    study = HumanStudy(store, "benchmark", search(), render, annotators=annotators, media="image", undo_seconds=0.0,
                       poll_seconds=0.02, deadline_seconds=0.0 if args.open else None)  # fmt: skip
    if args.open:
        study.step()  # all rounds are open before the first rater comes
    server, base = started(place, media)
    try:
        raters = [Rater(base, number, args.pause, not args.open) for number in range(args.raters)]
        began = time.perf_counter(), time.process_time(), used(server)
        for rater in raters:
            rater.start()
        if args.open:
            while sum(len(rater.accepted) for rater in raters) < rounds and not any(rater.failure for rater in raters):
                time.sleep(0.05)
            ended = time.perf_counter(), time.process_time(), used(server)
            for rater in raters:
                assert rater.failure is None, rater.failure
            while study.step() is None:
                pass
        else:
            for _ in range(rounds):
                study.step()
            ended = time.perf_counter(), time.process_time(), used(server)
        study.finish()
        for rater in raters:
            rater.join(60)
            assert rater.failure is None, rater.failure
    finally:
        server.terminate()
        server.wait()
    took, own, spent = (after - before for after, before in zip(ended, began, strict=True))
    with store.database.read() as connection:
        keys = connection.execute(sa.select(schema.answer.c.key)).scalars().all()
    accepted = {key for rater in raters for key in rater.accepted}
    once = len(keys) == len(set(keys)) == len(accepted) == rounds * annotators and set(keys) == accepted
    kind = "SQLite" if store.database.is_sqlite else "Postgres"
    print(f"{kind}: {args.raters} raters, {len(keys)} answers in {rounds} rounds, {len(keys) / took:.0f} answers/s, "
          f"pause {args.pause:g} s; all stored once: {'yes' if once else 'NO'}")  # fmt: skip
    print(f"  {replay(store, store.study(), search())} rounds replayed: the search is where its answers lead")
    requests = sum(len(seconds) for rater in raters for seconds in rater.seconds.values())
    print(f"  CPU time a request: {1e3 * spent / requests:.2f} ms of the server, {1e3 * own / requests:.2f} ms of the "
          f"raters and the trainer; load average of the last minute {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
          "cores")  # fmt: skip
    for what in ("lease", "answer"):
        seconds = [second for rater in raters for second in rater.seconds[what]]
        median, p95, p99, most = 1e3 * np.percentile(seconds, [50, 95, 99, 100])
        print(f"  {what:<7} {len(seconds):6} requests  median {median:6.1f} ms  p95 {p95:6.1f} ms  p99 {p99:6.1f} ms  "
              f"max {most:6.1f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=20, help="people who rank at once (default 20)")
    parser.add_argument("--answers", type=int, default=2000, help="answers in all (default 2000)")
    parser.add_argument("--open", type=int, default=0, help="rounds of one answer each that are all open from the "
        "start (default: one round at a time, which all raters answer)")  # fmt: skip
    parser.add_argument("--clips", type=int, default=6, help="clips of a round (default 6)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a person looks (default 0)")
    parser.add_argument("--url", help="a Postgres database that is empty (default: SQLite in a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args.url or folder, Path(folder) / "media", args)


if __name__ == "__main__":
    main()
