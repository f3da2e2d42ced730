"""A build that is killed and started again neither loses nor doubles a sample."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.data.builds import QUICK, ids_of, start_build
from tests.data.web import serving_pictures, write_links

NUM = 60


def num_done(out: Path) -> int:
    """Number of units that are done."""
    return len([path for path in out.glob("units/*.json") if "fetched" not in path.name])


@pytest.mark.parametrize("label", [(), ("--label", "depth=tests.data.labelers.own:red")], ids=["links", "labels"])
def test_a_killed_build_goes_on(tmp_path: Path, label: tuple[str, ...]) -> None:
    with serving_pictures(pause_s=0.05) as (address, handler):
        urls = [f"{address}/{'gone' if i % 10 == 9 else 'good'}/{i}" for i in range(NUM)]
        ids = [1000 + i if i % 6 != 3 else 1000 + i // 2 for i in range(NUM)]  # the id of an earlier unit's row
        links = write_links(tmp_path / "links.parquet", urls, id=ids)
        out = tmp_path / "out"
        words = [links, "-o", out, "--rows-per-shard", "3", "--workers", "0", "--threads", "2", *QUICK, *label]
        kept: dict[Path, int] = {}
        for kill in range(2):
            process = start_build(words)
            while num_done(out) < 4 * (kill + 1) and process.poll() is None:
                time.sleep(0.005)
            time.sleep(random.Random(kill).random() * 0.1)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it was killed, not done"
            assert not (out / "manifest.json").exists()
            assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items()), "what was done stays"
            kept = {path: path.stat().st_mtime_ns for path in out.glob("units/*.json")}
        _, errors = (last := start_build(words)).communicate(timeout=100)
        assert last.returncode == 0, errors
        assert sorted(ids_of(out, tmp_path / "cache")) == sorted(
            str(id_) for i, id_ in enumerate(ids) if i % 10 != 9 and id_ not in ids[:i]
        )
        twice = [path for path, count in handler.requests.items() if count > 1]
        assert len(twice) <= 3 * 3 * 2, "only units that were under way are fetched again"
