"""A web server with pictures and with all that goes wrong, and lists of links to it."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.shard_files import picture, serving

SIZE = (40, 36)


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A small PNG that is large when it is decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def smooth(number: int) -> bytes:
    """A JPEG whose colours change smoothly, others for each number."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    pixels = np.stack([x * 5, y * 6, np.full_like(x, number * 7 % 256)], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Pictures(BaseHTTPRequestHandler):
    """/good/N is a picture, others are named for what is wrong with them."""

    requests: Counter[str]
    times: dict[str, list[float]]
    pause_s: float
    ended: threading.Event

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        self.requests[path] += 1
        self.times.setdefault(path, []).append(time.monotonic())
        name = path.strip("/").partition("/")[0]
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"send_{name}", self.send_404)(path)

    def send_good(self, path: str) -> None:
        time.sleep(self.pause_s)
        self.answer(smooth(int(path.rpartition("/")[2])))

    def send_404(self, _path: str) -> None:
        self.answer(b"gone", 404, "text/html")

    def send_slow(self, _path: str) -> None:
        self.send_head(200, {"Content-Type": "image/jpeg", "Content-Length": "100000"})
        while not self.ended.wait(0.05):  # each byte in time, all of them never
            self.wfile.write(b"x")

    def send_silent(self, _path: str) -> None:
        self.ended.wait(30)

    def send_page(self, _path: str) -> None:
        self.answer(b"<html>", 200, "text/html; charset=utf-8")

    def send_lie(self, _path: str) -> None:
        self.answer(b"<html>", 200, "image/jpeg")

    def send_truncated(self, _path: str) -> None:
        content = picture(1, SIZE)
        self.answer(content[: len(content) // 2])

    def send_cut(self, _path: str) -> None:
        content = picture(1, SIZE)
        self.send_head(200, {"Content-Type": "image/jpeg", "Content-Length": str(len(content))})
        self.wfile.write(content[: len(content) // 2])

    def send_bomb(self, _path: str) -> None:
        self.answer(bomb(), 200, "image/png")

    def send_large(self, _path: str) -> None:
        self.send_head(200, {"Content-Type": "image/jpeg"})
        while True:
            self.wfile.write(b"\xff\xd8\xff" + bytes(10_000))

    def send_empty(self, _path: str) -> None:
        self.answer(b"")

    def send_small(self, _path: str) -> None:
        self.answer(picture(1, (8, 8)))

    def send_moved(self, path: str) -> None:
        self.send_head(302, {"Location": f"/good/{path.rpartition('/')[2]}", "Content-Length": "0"})

    def send_private(self, _path: str) -> None:
        self.send_head(302, {"Location": "http://10.0.0.1/secret.jpg", "Content-Length": "0"})

    def send_local(self, _path: str) -> None:
        self.send_head(302, {"Location": f"http://127.0.0.1:{self.server.server_address[1]}/good/1", "Content-Length": "0"})  # type: ignore[index] - it is one

    def send_file(self, _path: str) -> None:
        self.send_head(302, {"Location": "file:///etc/passwd", "Content-Length": "0"})

    def send_loop(self, _path: str) -> None:
        self.send_head(302, {"Location": "/loop", "Content-Length": "0"})

    def send_busy(self, path: str) -> None:
        if self.requests[path] < 2:
            self.send_head(503, {"Retry-After": "1", "Content-Length": "0"})
        else:
            self.answer(smooth(3))

    def send_down(self, _path: str) -> None:
        self.send_head(500, {"Content-Length": "0"})

    def answer(self, content: bytes, status: int = 200, type_: str = "image/jpeg") -> None:
        """Send a whole answer."""
        self.send_head(status, {"Content-Type": type_, "Content-Length": str(len(content))})
        self.wfile.write(content)

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        """Send a status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serving_pictures(pause_s: float = 0.0) -> Iterator[tuple[str, type[Pictures]]]:
    """Run the server; yield its address, and the class that counts its requests."""
    ended = threading.Event()
    handler = type("Handler", (Pictures,), {"requests": Counter(), "times": {}, "pause_s": pause_s, "ended": ended})
    with serving(handler) as address:
        try:
            yield address, handler
        finally:
            ended.set()


def write_links(path: Path, urls: Sequence[str | None], **columns: Sequence[object]) -> Path:
    """A parquet file with COYO-700M's columns, in row groups of 7 rows; all scores pass the paper's filters."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files need pyarrow, of the extra data")
    from pyarrow import parquet

    count = len(urls)
    table = {
        "id": [1000 + i for i in range(count)],
        "url": list(urls),
        "text": [f"picture {i}" for i in range(count)],
        "width": [1024] * count,
        "height": [768] * count,
        "watermark_score": [0.1] * count,
        "aesthetic_score_laion_v2": [6.0] * count,
        **columns,
    }
    parquet.write_table(pyarrow.table({name: list(values) for name, values in table.items()}), path, row_group_size=7)
    return path
