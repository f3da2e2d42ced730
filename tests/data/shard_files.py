"""Small shards and a web server for the tests of shards."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (40, 32), kind: str = "JPEG") -> bytes:
    """A picture file of width x height pixels of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def depth_png(seed: int = 0, size: tuple[int, int] = (40, 32)) -> bytes:
    """A 16-bit map."""
    values = np.random.default_rng(seed).integers(0, 65535, (size[1], size[0]), np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def depth_npy(seed: int = 0, size: tuple[int, int] = (40, 32)) -> bytes:
    """A float map."""
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).random((size[1], size[0]), np.float32))
    return buffer.getvalue()


def sample(seed: int = 0) -> dict[str, bytes]:
    """The files of a sample by kind."""
    return {"jpg": picture(seed), "depth.png": depth_png(seed), "txt": f"picture {seed}".encode()}


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file as any program writes it."""
    with tarfile.open(path, "w:") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shard(path: Path, first: int, count: int) -> Path:
    """A shard of ``count`` samples with keys from ``first`` on."""
    return write_tar(path, {f"{i:05d}.{kind}": content for i in range(first, first + count) for kind, content in sample(i).items()})


def as_json(**values: object) -> bytes:
    return json.dumps(values).encode()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] | partial[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a web server on loopback and return its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serving_folder(folder: Path) -> AbstractContextManager[str]:
    """Serve the files of a folder."""
    return serving(partial(Quiet, directory=str(folder)))
