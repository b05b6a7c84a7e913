"""A Hugging Face Hub of one process: the calls that creating, committing, listing and fetching a model make."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse


class Hub:
    """What the endpoint holds.

    :param token: that writing needs; None lets anybody write
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.fetched: list[str] = []
        self.url = ""

    def commit(self, repo: str) -> str:
        """An identifier of the content of a repository."""
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.files[repo].items())
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()

    def model(self, repo: str) -> dict[str, Any]:
        """A repository as the API describes it."""
        files = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for name, data in sorted(self.files[repo].items())
        ]
        card = self.files[repo].get("README.md", b"").decode()
        tags = re.findall(r"^- ([\w/.-]+)$", card.split("model-index")[0], re.M)
        known = {"id": repo, "modelId": repo, "sha": self.commit(repo), "private": self.private[repo]}
        return known | {"tags": tags, "downloads": 7, "siblings": files, "lastModified": "2026-01-01T00:00:00.000Z"}


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serves ``hub`` on a free port of this machine; yields its address, for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            path = urlparse(self.path)
            if path.path == "/api/models":
                wanted = parse_qs(path.query)
                found = [hub.model(repo) for repo in sorted(hub.files)]
                found = [m for m in found if all(tag in m["tags"] for tag in wanted.get("filter", []))]
                author = wanted.get("author", [""])[0]
                return self._json([m for m in found if m["id"].startswith(author)])
            if match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", path.path):
                files = hub.model(match[1])["siblings"]
                kind = {"type": "file"}
                return self._json(
                    [kind | {"path": f["rfilename"], "size": f["size"], "oid": f["blobId"]} for f in files]
                )
            if match := re.match(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?$", path.path):
                if match[1] not in hub.files:
                    return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return self._json(hub.model(match[1]))
            return self._file(body=True)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._json({"error": "Invalid credentials"}, 401)
            if self.path == "/api/repos/create":
                asked = json.loads(data)
                repo = f"{asked['organization']}/{asked['name']}"
                hub.files.setdefault(repo, {})
                hub.private.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
                return self._json({"url": f"{hub.url}/{repo}", "id": repo, "name": repo})
            if self.path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            match = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
            assert match, self.path
            if match[2] == "preupload":
                files = [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(data)["files"]]
                return self._json({"files": [{k: v for k, v in f.items() if k != "sample"} for f in files]})
            for line in data.splitlines():
                change = json.loads(line)
                if change["key"] == "file":
                    content = base64.b64decode(change["value"]["content"])
                    hub.files[match[1]][change["value"]["path"]] = content
                if change["key"] in ("deletedFile", "deletedFolder"):
                    doomed = change["value"]["path"]
                    kept = {
                        n: c for n, c in hub.files[match[1]].items() if n != doomed and not n.startswith(doomed + "/")
                    }
                    hub.files[match[1]] = kept
            sha = hub.commit(match[1])
            return self._json({"commitUrl": f"{hub.url}/{match[1]}/commit/{sha}", "commitOid": sha, "success": True})

        def _file(self, body: bool) -> None:
            match = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(urlparse(self.path).path))
            content = hub.files.get(match[1], {}).get(match[3]) if match else None
            if content is None:
                return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            assert match
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.commit(match[1]))
            self.end_headers()
            if body:
                hub.fetched.append(match[3])
                self.wfile.write(content)
            return None

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub.url
    finally:
        server.shutdown()
        server.server_close()
