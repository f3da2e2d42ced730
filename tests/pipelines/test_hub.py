"""Saving to a hub and loading by its id, through huggingface_hub and a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

REPO, COMMIT = "someone/joint-model", "a" * 40

PROGRAM = """
import sys, torch
from jointnet import JointNetPipeline
from tests.conftest import tiny_pipeline

repo, folder = sys.argv[1:]
made = tiny_pipeline()
made.save_pretrained(folder, push_to_hub=True, repo_id=repo)
loaded = JointNetPipeline.from_pretrained(repo)
states = [pipeline.joint_unet.state_dict() for pipeline in (made, loaded)]
assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
print(loaded.name_or_path)
"""

FROM_A_BASE = """
import sys, torch
from pathlib import Path
from jointnet import JointNetPipeline
from jointnet.checkpoints.release import write_release
from tests.bases import tiny_base

repo, folder = sys.argv[1:]
base = tiny_base("sd2")
base.save_pretrained(folder, push_to_hub=True, repo_id=repo)
extended = JointNetPipeline.from_base(repo)
assert all(torch.equal(value, extended.unet.state_dict()[name]) for name, value in base.unet.state_dict().items())
"""

A_RELEASE_ON_IT = """
release = Path(folder).with_name("release")
write_release(extended.joint_unet, release)
again = JointNetPipeline.from_release(release, base=repo)
assert all(torch.equal(value, again.joint_unet.state_dict()[name]) for name, value in extended.joint_unet.state_dict().items())
print("the same weights")
"""


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files and a download need."""

    files: dict[str, bytes]

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, content: Any) -> None:
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.json({"url": f"http://{self.headers['Host']}/{REPO}"})
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.json({"commitUrl": f"http://{self.headers['Host']}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(b"", status=404)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].partition("/resolve/")[2].partition("/")[2]
        if name in self.files:
            self.answer(self.files[name], {"ETag": f'"{oid(self.files[name])}"'})
        elif "/tree/" in self.path:
            self.json([{"type": "file", "path": name, "size": len(content), "oid": oid(content)} for name, content in self.files.items()])
        elif self.path.startswith(f"/api/models/{REPO}"):
            self.json({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]})
        else:
            self.answer(b"", status=404)

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(program: str, hub: str, folder: Path) -> str:
    """What a program of its own prints, for which the hub is ours."""
    quiet = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    environment = {**os.environ, **quiet, "HF_ENDPOINT": hub, "HF_HOME": str(folder / "home")}
    command = [sys.executable, "-c", program, REPO, str(folder / "model")]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_model_goes_to_the_hub_whole_and_comes_back_by_its_id(hub: str, tmp_path: Path) -> None:
    printed = run(PROGRAM, hub, tmp_path)
    assert {"README.md", "pipeline.py", "model_index.json"} <= set(Hub.files)
    assert Hub.files["README.md"].startswith(b"---\nlibrary_name: diffusers\n")
    assert str(tmp_path / "home") in printed


def test_a_base_is_extended_by_its_id(hub: str, tmp_path: Path) -> None:
    run(FROM_A_BASE, hub, tmp_path)
    assert "model_index.json" in Hub.files


@pytest.mark.slow
def test_a_base_by_its_id_serves_a_release(hub: str, tmp_path: Path) -> None:
    assert run(FROM_A_BASE + A_RELEASE_ON_IT, hub, tmp_path).endswith("the same weights\n")
