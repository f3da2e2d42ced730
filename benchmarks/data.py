"""What data sets cost, each measurement in a process of its own: scanning names, memory of reading, and rates of ``jointnet data build``.

Commands for benchmarks/run.py: scan FOLDER | read folder|shards PATH CACHE | build LINKS OUT WORKERS CORES ROWS_PER_SHARD [LABEL], which
print one line of JSON; serve FOLDER serves its files at the port that it prints, until stdin ends.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from jointnet.data.build.checks import PictureSettings
from jointnet.data.build.download import DownloadSettings
from jointnet.data.build.filters import PAPER_FILTERS
from jointnet.data.build.open_input import InputSettings, open_input
from jointnet.data.build.pipeline import build
from jointnet.data.build.stages import BuildJob
from jointnet.data.folder import FolderSource
from jointnet.data.labelers.registry import parse_label
from jointnet.data.shards import ShardSource
from jointnet.demo.measure.page import table

ROOT = Path(__file__).parents[1]
TAILS = (".jpg", ".txt", ".depth.png", ".normal.png")
WIDTH, HEIGHT, NUM_PICTURES = 1024, 768, 40
_SHARD = 1000
"""Samples of a shard, and of those that are links to each other."""


def scan_names(num_samples: int = 250_000, rounds: int = 3) -> dict[str, Any]:
    """Seconds and memory to find the samples among names of one folder, four files each."""
    with TemporaryDirectory() as scratch:
        for number in range(num_samples):
            for tail in TAILS:
                os.close(os.open(f"{scratch}/{number:09d}{tail}", os.O_CREAT))
        runs = [_printed("scan", scratch) for _ in range(rounds)]
    assert all(run["samples"] == num_samples for run in runs)
    return {
        "names": num_samples * len(TAILS),
        "samples": num_samples,
        "seconds": [run["seconds"] for run in runs],
        "peak_mib": [run["peak_mib"] for run in runs],
    }


def memory_of_reading(sizes: tuple[int, int] = (1_000, 100_000), rounds: int = 3) -> dict[str, Any]:
    """Peak memory of reading 200 random samples of a source, beyond what the imports take; shards are indexed by the same process."""
    peaks: dict[str, list[float]] = {}
    with TemporaryDirectory() as scratch:
        sources = [(kind, size, _linked_samples(Path(scratch), kind, size)) for size in sizes for kind in ("folder", "shards")]
        for number in range(rounds):
            for kind, size, path in sources:
                peak = _printed("read", kind, path, Path(scratch) / f"cache {number}")["peak_mib"]
                peaks.setdefault(f"{kind} of {size:,}", []).append(peak)
    return {"sizes": list(sizes), "seed": 0, "peak_mib": peaks}


CASES = {"without Ray": (0, 1), "Ray, 1 worker": (1, 1), "Ray, 2 workers": (2, 2)}
"""Workers and cores."""

LABELS = {"no label": (), "label": ("depth=benchmarks.data:brightness",)}


def build_rates(num_rows: tuple[int, int] = (1600, 320), num_units: int = 40, rounds: int = 3) -> dict[str, Any]:
    """Samples a second of builds from links to a web server of this machine; each round runs every case once.

    Args:
        num_rows: of builds without labels, and of those with.
    """
    rates: dict[str, list[float]] = {}
    with TemporaryDirectory() as scratch, _serving(Path(scratch) / "pictures") as address:
        mean_bytes = sum(path.stat().st_size for path in Path(scratch, "pictures").iterdir()) / NUM_PICTURES
        links, out = Path(scratch) / "links.parquet", Path(scratch) / "out"
        for _ in range(rounds):
            for (labelled, labels), rows in zip(LABELS.items(), num_rows, strict=True):
                _write_links(links, address, rows)
                for name, (workers, cores) in CASES.items():
                    done = _printed("build", links, out, workers, cores, rows // num_units, *labels)
                    assert done["samples"] == rows, done
                    rates.setdefault(f"{name}, {labelled}", []).append(done["per_second"])
                    shutil.rmtree(out)
    return {"rows": list(num_rows), "units": num_units, "mean_kb": round(mean_bytes / 1000), "seed": 0, "per_second": rates}


def brightness(rgb: Tensor) -> Tensor:
    """Depth that costs little to compute, and is as smooth as a network's."""
    coarse = avg_pool2d(rgb.mean(1, keepdim=True), 16)
    return interpolate(coarse, rgb.shape[-2:], mode="bilinear")


def scan_section(figures: dict[str, Any]) -> str:
    return f"""## Scanning a folder

{figures["names"]:,} names of one folder ({figures["samples"]:,} samples of {len(TAILS)} files, empty) are sorted out in
{median(figures["seconds"]):.1f} s (median of {_listed(figures["seconds"])}), with {median(figures["peak_mib"]):.0f} MiB
beyond the imports."""


def memory_section(figures: dict[str, Any]) -> str:
    rows = [[name, f"{median(peaks):.1f} MiB", _listed(peaks)] for name, peaks in figures["peak_mib"].items()]
    return f"""## Memory of a source

200 random samples (picture of 64 x 48, depth, caption; seed {figures["seed"]}) are read after the folder is scanned, or the shards of
{_SHARD:,} samples are indexed: peak memory of the process beyond the imports. In larger sources the files are links to the same {_SHARD:,}
samples.

{table(["source", "median", "runs"], rows)}"""


def build_section(figures: dict[str, Any]) -> str:
    rates = figures["per_second"]

    def row(name: str, label: str) -> list[str]:
        workers, cores = CASES[name]
        own, one = rates[f"{name}, {label}"], rates[f"Ray, 1 worker, {label}"]
        growth = f"{median(b / a for a, b in zip(one, own, strict=True)):.2f} x" if workers > 1 else ""
        return [name, label, str(cores), f"{median(own):.1f}", f"{median(own) / cores:.1f}", growth, _listed(own)]

    rows = [row(name, label) for label in LABELS for name in CASES]
    plain, labelled = figures["rows"]
    return f"""## Building shards

`jointnet data build` of links to JPEGs of {WIDTH} x {HEIGHT}, smooth with noise (seed {figures["seed"]}, {figures["mean_kb"]} kB), at a web
server of this machine in a process of its own: {plain:,} links without labels, {labelled:,} with a smooth brightness as depth, in
{figures["units"]} units; default settings but for the rate of requests. A build keeps to as many cores as are stated, Ray's own processes
included; the server takes its share of the machine. Samples a second from the first unit's end to the last's, so that starting Ray
does not count; medians of interleaved rounds.

{table(["build", "labels", "cores", "samples/s", "per core", "growth from 1 worker", "runs"], rows)}"""


def _listed(values: list[float]) -> str:
    return ", ".join(map(str, values))


def _printed(*words: object) -> dict[str, Any]:
    """Run this file in a process of its own and return what it prints."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _linked_samples(scratch: Path, kind: str, size: int) -> Path:
    """A folder of samples or shards, of which all but the first _SHARD are hard links."""
    folder = scratch / f"{kind} {size}"
    folder.mkdir()
    rng, first = np.random.default_rng(0), min(size, _SHARD)
    for number in range(first):
        stem = folder / f"{number:09d}"
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(stem.with_suffix(".jpg"))
        Image.fromarray(rng.integers(0, 65535, (48, 64), np.uint16)).save(stem.with_suffix(".depth.png"))
        stem.with_suffix(".txt").write_text(f"picture {number}")
    if kind == "folder":
        for number in range(first, size):
            for tail in (".jpg", ".depth.png", ".txt"):
                os.link(folder / f"{number % first:09d}{tail}", folder / f"{number:09d}{tail}")
        return folder
    shards = scratch / f"tar {size}"
    shards.mkdir()
    with tarfile.open(shards / "00000.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    for number in range(1, size // first):
        os.link(shards / "00000.tar", shards / f"{number:05d}.tar")
    return shards


def write_pictures(folder: Path) -> None:
    """The pictures that builds are measured with, into a new folder."""
    folder.mkdir()
    for number in range(NUM_PICTURES):
        (folder / f"{number}.jpg").write_bytes(_picture(number))


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """Serve pictures from a process of its own; yield the address."""
    write_pictures(folder)
    server = subprocess.Popen([sys.executable, __file__, "serve", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def _picture(seed: int) -> bytes:
    """A JPEG whose colours change smoothly, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse, np.float32) + rng.normal(0, 6, (HEIGHT, WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write_links(path: Path, address: str, num_rows: int) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "id": list(range(num_rows)),
        "url": [f"{address}/{row % NUM_PICTURES}.jpg?{row}" for row in range(num_rows)],
        "text": [f"picture {row}" for row in range(num_rows)],
        "width": [WIDTH] * num_rows,
        "height": [HEIGHT] * num_rows,
        "watermark_score": [0.1] * num_rows,
        "aesthetic_score_laion_v2": [6.0] * num_rows,
    }
    parquet.write_table(pyarrow.table(columns), path)


def _memory_mib(kind: str) -> float:
    """VmRSS, or VmHWM, the highest VmRSS of this program; ru_maxrss would begin with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def _measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of some work, and its peak memory beyond what was held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before, started = _memory_mib("VmRSS"), time.perf_counter()
    work()
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mib": round(_memory_mib("VmHWM") - before, 1)}


def _scan(folder: str) -> dict[str, Any]:
    source = FolderSource(Path(folder))
    return {**_measured(lambda: len(source)), "samples": len(source)}


def _read(kind: str, path: str, cache: str) -> dict[str, Any]:
    def read() -> None:
        source = ShardSource(path, cache) if kind == "shards" else FolderSource(Path(path))
        for row in np.random.default_rng(0).integers(0, len(source), 200).tolist():
            source.read(row, ("rgb", "depth"))

    return _measured(read)


def _build(links: str, out: str, workers: str, cores: str, rows_per_shard: str, *labels: str) -> dict[str, Any]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    job = BuildJob(
        rows=open_input(links, PAPER_FILTERS, InputSettings(cache=Path(out).with_name("cache"))),
        output=Path(out),
        labels=dict(map(parse_label, labels)),
        pictures=PictureSettings(filters=PAPER_FILTERS),
        download=DownloadSettings(allow_private=True, rate=1e6),
        rows_per_shard=int(rows_per_shard),
        device="cpu",
    )
    ended: list[tuple[float, int]] = []
    manifest = build(job, workers=int(workers), progress=lambda _done, _all, report: ended.append((time.perf_counter(), report.samples)))
    samples = sum(number for _, number in ended[1:])
    return {"samples": manifest.samples, "per_second": round(samples / (ended[-1][0] - ended[0][0]), 1)}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _serve(folder: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps({"scan": _scan, "read": _read, "build": _build, "serve": _serve}[what](*arguments)))
