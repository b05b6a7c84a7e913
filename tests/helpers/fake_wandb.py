"""A W&B server of a test: what wandb's own client sends to it is kept, and it answers as far as a run needs."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
"""An API key of the form that W&B's are of."""


@dataclass
class StoredRun:
    """A run as the server knows it."""

    variables: dict[str, Any]
    """Of the newest mutation that made or changed it."""
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)


class FakeWandb:
    """The server at ``url``; ``runs`` by their identifiers."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.url = ""

    def graphql(self, operation: str, variables: dict[str, Any]) -> Any:
        if operation == "RunResumeStatus":
            return {"model": self._project(variables) | {"bucket": self._bucket(variables["name"])}}
        if operation == "UpsertBucket":
            stored = self.runs.setdefault(variables["name"], StoredRun({}))
            inserted = not stored.variables
            stored.variables |= {name: value for name, value in variables.items() if value is not None}
            bucket = {
                "id": "b",
                "name": variables["name"],
                "displayName": variables.get("displayName"),
                "sweepName": None,
            }
            project = self._project(variables)
            bucket |= {"project": project, "historyLineCount": len(stored.history)}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        return {}  # what is asked beside a run

    def _project(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "p",
            "name": variables.get("project"),
            "entity": {"id": "e", "name": variables.get("entity") or "someone"},
        }

    def _bucket(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        history = self.runs[name].history
        tail = json.dumps([json.dumps(history[-1])] if history else [])
        counts = {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}", "displayName": name}
        return {"id": "b", "name": name, "tags": [], "notes": "", "wandbConfig": '{"t": 1}', **counts, **texts}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        part = (body.get("files") or {}).get("wandb-history.jsonl")
        if part:
            rows, start = [json.loads(line) for line in part["content"]], part["offset"]
            self.runs[name].history[start : start + len(rows)] = rows
        if body.get("complete"):
            self.runs[name].exit_codes.append(int(body["exitcode"]))


@contextmanager
def serving() -> Iterator[FakeWandb]:
    """A server on a free port of this machine."""
    fake = FakeWandb()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                found = fake.graphql(asked.get("operationName", ""), asked.get("variables") or {})
                self._answer({"data": found})
            elif self.path.endswith("/file_stream"):
                fake.stream(self.path.split("/")[-2], json.loads(body))
                self._answer({})
            else:
                self._answer({})

        do_PUT = do_POST

        def _answer(self, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """The client ends its connections when it ends."""

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
