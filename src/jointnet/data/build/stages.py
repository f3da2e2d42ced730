"""The two stages of a unit, as plain functions: fetch (load, check, write a shard) and label (add maps to each picture).

Both may be run again at any time, by any process: a unit that is done is left as it is.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from jointnet.data.build.checks import PictureSettings, check_picture
from jointnet.data.build.download import Downloader, DownloadSettings
from jointnet.data.build.duplicates import duplicates_of
from jointnet.data.build.folder import BuildFolder, Report
from jointnet.data.build.map_files import check_labels, map_file
from jointnet.data.build.rows import Row, Rows, Unit
from jointnet.data.labelers.labeler import Labeler, label, naming_labeler
from jointnet.data.shard_samples import FACTS, PICTURE_KINDS, Files, decode_picture
from jointnet.data.shard_writer import key_of
from jointnet.data.shards import ShardSource
from jointnet.errors import BadSampleError, JointNetWarning
from jointnet.modalities.modality import get_modality

LabelerFactory = Callable[[], Labeler]
"""Makes a labeler on the CPU; it is called where the labeler runs, and can be pickled."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_BATCH_PIXELS = 16 * 1024 * 1024
"""Of the pictures that a labeler is shown at once."""

_NUM_DECODING = 4
_decoding = threading.BoundedSemaphore(_NUM_DECODING)
"""Pictures that are decoded at once: each may need a quarter of a gigabyte, and many more are waited for."""


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """What a build does.

    Attributes:
        output: folder of the shards; where several machines work, a disk that they share.
        labels: by modality, what makes its labeler.
        rows_per_shard: rows of the input a unit has; those that are dropped leave its shard smaller.
        label_batch: pictures that a labeler is shown at once, at most.
        device: of the labelers; None: a GPU if there is one.
    """

    rows: Rows
    output: Path
    labels: Mapping[str, LabelerFactory] = field(default_factory=dict)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    download: DownloadSettings = field(default_factory=DownloadSettings)
    rows_per_shard: int = 10_000
    label_batch: int = 16
    device: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Maps that each sample of the shards has."""
        return ("rgb", *self.rows.modalities, *(name for name in self.labels if name not in self.rows.modalities))


def fetch_unit(job: BuildJob, unit: Unit, downloader: Downloader) -> Report:
    """Load and check a unit's rows, and write those that are good: a finished shard, or one that waits for its labels.

    Raises: DataFolderError if the input cannot be read; OutputError.
    """
    folder, is_fetched_only = BuildFolder(job.output), bool(job.labels)
    report = folder.report(unit) or (folder.report(unit, is_fetched_only=True) if is_fetched_only else None)
    if report is not None:
        return report
    num_rows, dropped, duplicates = 0, Counter[str](), duplicates_of(unit, job.output)
    num_threads = job.download.threads if job.rows.is_remote else 1
    with _without_map_warnings(), folder.writing() as writer:
        numbered = enumerate(job.rows.read(unit), unit.first)
        for key, outcome in in_order(partial(_load, job, downloader, duplicates), numbered, num_threads):
            num_rows += 1
            if isinstance(outcome, str):
                dropped[outcome] += 1
            else:
                writer.add(key, outcome)
    return folder.commit(unit, writer, num_rows, dropped, is_fetched_only=is_fetched_only)


def label_unit(job: BuildJob, unit: Unit, labelers: Mapping[str, Labeler]) -> Report:
    """Add maps to the pictures of a fetched unit; its shard has them in the order of their sizes, so that batches have one.

    Raises: OutputError; LabelerError, and what labelers raise; ShapeError if their maps are not of their pictures' size.
    """
    folder = BuildFolder(job.output)
    report = folder.report(unit)
    if report is None:
        fetched = folder.report(unit, is_fetched_only=True)
        assert fetched is not None, "fetched before"
        dropped = Counter(fetched.dropped)
        with _without_map_warnings(), folder.writing() as writer:
            if fetched.shard is not None:
                for key, outcome in _labelled(job, ShardSource(folder.fetched_shard(unit), job.output / "unused"), labelers):
                    if isinstance(outcome, str):
                        dropped[outcome] += 1
                    else:
                        writer.add(key, outcome)
        report = folder.commit(unit, writer, fetched.rows, dropped)
    folder.forget_fetched(unit)
    return report


def make_labelers(job: BuildJob) -> dict[str, Labeler]:
    """Make the labelers where they run. Raises: LabelerError, and what the factories raise."""
    device, made = job.device or ("cuda" if torch.cuda.is_available() else "cpu"), dict[str, Labeler]()
    for modality, factory in job.labels.items():
        with naming_labeler(modality):
            made[modality] = factory().to(device)
    return made


def in_order(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """Yield what a function returns for each item, in order, computed by threads; few items are under way at a time."""
    if num_threads <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _load(
    job: BuildJob, downloader: Downloader, duplicates: frozenset[int], numbered: tuple[int, Row]
) -> tuple[str, dict[str, bytes] | str]:
    """Return a row's key, and its files by kind or why it is dropped."""
    number, row = numbered
    key = key_of(row.id)
    problem = "duplicate" if number in duplicates else job.pictures.filters.row_problem(row.facts) if row.facts else None
    if problem is not None:
        return key, problem
    try:
        captions = row.captions()
        loaded = row.load(downloader)
        with _decoding:
            picture = check_picture(loaded.content, row.id, job.pictures)
        maps = {name: get_modality(name).resize(map_[None], picture.size)[0] for name, map_ in loaded.maps.items()}
        files = {picture.kind: picture.content, **dict(map_file(name, map_) for name, map_ in maps.items())}
    except BadSampleError as error:
        return key, error.reason
    original_size = loaded.original_size or picture.original_size
    facts = {
        **({"caption": captions[0]} if len(captions) == 1 else {"captions": list(captions)}),
        "id": row.id,
        "url": row.url,
        "width": picture.size[1],
        "height": picture.size[0],
        "original_width": original_size[1],
        "original_height": original_size[0],
        "sha256": sha256(loaded.content).hexdigest(),
    }
    return key, {**files, FACTS: json.dumps(facts, ensure_ascii=False).encode(errors="replace")}


def _labelled(job: BuildJob, source: ShardSource, labelers: Mapping[str, Labeler]) -> Iterator[tuple[str, dict[str, bytes] | str]]:
    """Yield each sample's key, and its files with maps or why it is dropped."""
    rows = range(len(source))
    sizes = [_size(json.loads(source.files(row)[FACTS]().content)) for row in rows]
    for _, same in groupby(sorted(rows, key=lambda row: (sizes[row], row)), key=lambda row: sizes[row]):
        waiting = list(same)
        height, width = sizes[waiting[0]]
        num = max(min(job.label_batch, _BATCH_PIXELS // (height * width)), 1)
        for start in range(0, len(waiting), num):
            batch = waiting[start : start + num]
            files = [source.files(row) for row in batch]
            pictures = torch.stack(list(in_order(_picture, files, _NUM_DECODING)))  # (B, 3, H, W)
            maps = {modality: _maps(labeler, pictures) for modality, labeler in labelers.items()}
            for number, (row, stored) in enumerate(zip(batch, files, strict=True)):
                key = source.id_of(row).partition("/")[2]
                yield key, _with_maps(stored, {modality: maps[modality][number] for modality in maps})


def _maps(labeler: Labeler, pictures: Tensor) -> Tensor:
    """Raises: LabelerError, ShapeError."""
    maps = label(labeler, pictures).cpu()
    check_labels(labeler.modality, maps, pictures)
    return maps.float()


def _with_maps(files: Files, maps: Mapping[str, Tensor]) -> dict[str, bytes] | str:
    """Return a sample's files and its maps', or why it is dropped."""
    try:
        labels = dict(map_file(name, map_) for name, map_ in maps.items())
    except BadSampleError as error:
        return f"labeler: {error.reason}"
    stored = {kind: read().content for kind, read in files.items() if kind not in labels and kind != FACTS}
    return {**stored, **labels, FACTS: files[FACTS]().content}


def _picture(files: Files) -> Tensor:
    kind = next(kind for kind in PICTURE_KINDS if kind in files)
    return decode_picture(files[kind]())


def _size(facts: Mapping[str, Any]) -> tuple[int, int]:
    return int(facts["height"]), int(facts["width"])


@contextmanager
def _without_map_warnings() -> Iterator[None]:
    """Hold back warnings about single pictures and maps: they come when the shards are read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JointNetWarning)
        yield
