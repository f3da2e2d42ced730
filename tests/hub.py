"""A server on loopback that speaks as much of the Hugging Face hub's API as an upload needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"


@dataclass
class Hub:
    """What it was asked for and holds.

    Attributes:
        repos: files by name of each repository.
        is_full: it refuses commits.
    """

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    is_full: bool = False


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port, until the context ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._answer(401, {"error": "Invalid username or password."})
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.repos.setdefault(repo, {})
                return self._answer(200, {"url": f"{hub.address}/{repo}"})
            if self.path == "/api/validate-yaml":
                return self._answer(200, {"errors": [], "warnings": []})
            repo, _, what = self.path.removeprefix("/api/models/").partition("/preupload/")
            if what:
                names = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in names]
                return self._answer(200, {"files": files})
            repo, _, what = self.path.removeprefix("/api/models/").partition("/commit/")
            if hub.is_full:
                return self._answer(507, {"error": "storage is full"})
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.address}/{repo}/commit/{'0' * 40}"})

        def do_GET(self) -> None:
            self._answer(404, {"error": "nothing here"})

        def _answer(self, status: int, value: object) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
