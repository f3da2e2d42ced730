"""jointnet data build on a cluster of Ray on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.builds import QUICK, ids_of, manifest_of, start_build
from tests.data.builds_labels import FAILS
from tests.data.folders import three_samples
from tests.data.test_build_stopped import num_done
from tests.data.web import serving_pictures, write_links

pytest.importorskip("ray", reason="Ray is an extra: jointnet[data]")
pytestmark = pytest.mark.slow
NUM = 60


def workers_of(session: int) -> list[int]:
    """The processes of a session that do a build's work, by the name that Ray gives them."""
    return [pid for pid in _processes(session) if b"ray::" in _read(pid, "cmdline") and b"Worker" in _read(pid, "cmdline")]


def _processes(session: int) -> Iterator[int]:
    """Ray's processes have sessions of their own; all of them have the build's process as an ancestor."""
    parents = {int(path.name): _parent(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    for pid in parents:
        above: int | None = pid
        while above is not None and above != session:
            above = parents.get(above)
        if above == session and pid != session:
            yield pid


def _parent(pid: int) -> int | None:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_worker_that_is_killed_midway_costs_nothing(tmp_path: Path) -> None:
    with serving_pictures(pause_s=0.3) as (address, handler):
        urls = [f"{address}/{'gone' if i % 10 == 9 else 'good'}/{i}" for i in range(NUM)]
        links = write_links(tmp_path / "links.parquet", urls)
        out = tmp_path / "out"
        label = ("--label", "depth=tests.data.labelers.own:red", "--device", "cpu")
        process = start_build([links, "-o", out, "--rows-per-shard", "3", "--workers", "2", "--threads", "1", *QUICK, *label])
        try:
            deadline = time.monotonic() + 240
            while num_done(out) < 4 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            workers = workers_of(process.pid)
            assert len(workers) == 2, process.poll()
            os.kill(workers[0], signal.SIGKILL)
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        assert [line.partition(" ")[0] for line in errors.splitlines()] == ["unit"] * (NUM // 3) + ["54"], errors
        assert sorted(ids_of(out, tmp_path / "cache")) == [str(1000 + i) for i in range(NUM) if i % 10 != 9]
        assert dict(manifest_of(out).dropped) == {"HTTP 404": NUM // 10}
        assert len([path for path, count in handler.requests.items() if count > 1]) <= 3 * 2, (
            "only the dead worker's units are fetched again"
        )


@pytest.mark.parametrize("name", FAILS)
def test_a_labeler_that_fails_ends_a_build_with_one_line(name: str, tmp_path: Path) -> None:
    photos = three_samples(tmp_path / "photos")
    label = ("--label", f"depth=tests.data.builds_labels:{name}", "--device", "cpu")
    _, errors = (process := start_build([photos, "-o", tmp_path / "out", "--workers", "1", *label])).communicate(timeout=240)
    assert process.returncode == 2, errors
    (line,) = errors.splitlines()
    assert FAILS[name] in line
    assert "(builds_labels.py, line " in line
