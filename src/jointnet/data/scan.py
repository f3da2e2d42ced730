"""Samples of a data folder by the names of its files, and files that are no part of one. No picture and no map is opened.

Names are sorted on disk and grouped as they come back, so memory does not grow with their number.
"""

from __future__ import annotations

import json
import os
import posixpath
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from jointnet.data.metadata import METADATA_FILES, read_metadata
from jointnet.data.packed import PackedList, pack
from jointnet.data.sample_files import KNOWN_SUFFIXES, SampleFiles, Sorted, group_of, sort_out, sort_out_files
from jointnet.errors import DataFolderError, OutputError
from jointnet.modalities.modality import registered_modalities

_NUM_SHOWN = 3
_NO_DATA = "__MACOSX"
_CACHE_KB = 16_000
"""Memory of the sort."""

_Row = tuple[bytes, bytes, str | None]
"""Begin of a path, which is equal for names that may belong together; its tail; captions of a row of metadata as JSON (None: a file)."""

_KNOWN = frozenset(suffix[1:] for suffix in KNOWN_SUFFIXES)


@dataclass
class LeftOut:
    """Files that are no part of a sample: how many, and the first names."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < _NUM_SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        return f"{self.count} ({', '.join(self.first)}{', ...' if self.count > len(self.first) else ''})"


class SampleList:
    """The samples of a folder in the order of their folders and stems; each is unpacked when it is asked for."""

    def __init__(self, packed: PackedList) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, row: int) -> SampleFiles:
        return SampleFiles.unpack(self._packed[row])

    def __iter__(self) -> Iterator[SampleFiles]:
        return map(SampleFiles.unpack, self._packed)


@dataclass(frozen=True)
class Scan:
    """Samples, and files that are left out by the reason."""

    samples: SampleList
    left_out: dict[str, LeftOut]


def scan(folder: Path, list_file: Path | None = None) -> Scan:
    """Find the samples in a folder and its sub-folders, links to folders included; names that begin with a dot are not looked at.

    Args:
        list_file: where the list is written; None: to a temporary file.
    Raises: DataFolderError if a folder cannot be listed, names clash, or metadata cannot be read; OutputError.
    """
    left_out: dict[str, LeftOut] = {}
    packed = pack(_samples(folder, left_out), list_file)
    return Scan(SampleList(packed), left_out)


def _samples(folder: Path, left_out: dict[str, LeftOut]) -> Iterator[bytes]:
    """Yield the packed samples in order; count in ``left_out`` what belongs to none. Raises: DataFolderError, OutputError."""
    modalities = frozenset(registered_modalities())
    num_clashes, clashes = 0, list[list[str]]()
    for key, rows in groupby(_sorted(_rows(folder, modalities), folder), key=itemgetter(0)):
        begin = key.replace(b"\0", b"/")
        found = _sort_out(rows, modalities)
        for sample in found.samples:
            yield begin + sample
        for reason, tail in found.left_out:
            left_out.setdefault(reason, LeftOut()).add(os.fsdecode(begin) + tail)
        for tails in found.clashes:
            num_clashes += 1
            clashes += [[os.fsdecode(begin) + tail for tail in tails]] if num_clashes <= _NUM_SHOWN else []
    if clashes:
        more = f", and {num_clashes - _NUM_SHOWN} more of this kind" if num_clashes > _NUM_SHOWN else ""
        shown = "; ".join(" and ".join(names) for names in clashes)
        raise DataFolderError(f"got files of one name in {str(folder)!r}: {shown}{more}; expected one of each: remove or rename the other")


def _sort_out(rows: Iterable[_Row], modalities: frozenset[str]) -> Sorted:
    tails, texts = list[str](), dict[str, list[str]]()
    for _, tail, captions in rows:
        if captions is None:
            tails.append(os.fsdecode(tail))
        else:
            texts.setdefault(os.fsdecode(tail), []).extend(json.loads(captions))
    return sort_out(tails, texts, modalities) if texts else sort_out_files(tuple(tails), modalities)


def _sorted(rows: Iterable[_Row], folder: Path) -> Iterator[_Row]:
    """Sort rows in a temporary database on disk. Raises: OutputError; what ``rows`` raises."""
    try:
        with closing(sqlite3.connect("", isolation_level=None)) as database:  # "": a file that goes with the connection
            for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_KB}"):
                database.execute(f"PRAGMA {setting}")
            database.execute("CREATE TABLE names (key BLOB, tail BLOB, texts TEXT)")
            database.execute("BEGIN")
            database.executemany("INSERT INTO names VALUES (?, ?, ?)", rows)
            yield from database.execute("SELECT key, tail, texts FROM names ORDER BY key, tail, rowid")
    except sqlite3.Error as error:
        raise OutputError(
            f"cannot sort the names of {str(folder)!r} in {tempfile.gettempdir()!r}: {error}; free space there, or set TMPDIR"
        ) from error


def _rows(top: Path, modalities: frozenset[str]) -> Iterator[_Row]:
    """Yield all files that may belong to samples, and all rows of metadata. Raises: DataFolderError."""
    for place, names in _folders(top):
        metadata = []
        begin = _key(place)
        for name in names:
            stem, _, suffix = name.rpartition(".")
            if stem and suffix.lower() in _KNOWN:
                group = group_of(name, modalities)
                yield begin + os.fsencode(group), os.fsencode(name[len(group) :]), None
            elif name.lower() in METADATA_FILES:
                metadata.append(name)
        for name in sorted(metadata):
            for file_name, texts in read_metadata(top / place / name, place + name):
                path = posixpath.normpath(posixpath.join(place, file_name.replace("\\", "/")))
                parent, slash, last = path.rpartition("/")
                group = group_of(last, modalities)
                yield _key(parent + slash + group), os.fsencode(last[len(group) :]), json.dumps(texts)


def _key(path: str) -> bytes:
    """Return what sorts paths by their folders first: "/" comes before all characters."""
    return os.fsencode(path.replace("/", "\0"))


def _folders(top: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield every folder as its path below ``top`` ("" or "a/b/") with its files' names. Raises: DataFolderError."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        try:
            facts = os.stat(top / place)
        except OSError as error:
            raise _cannot_list(top / place, error) from error
        if (facts.st_dev, facts.st_ino) in seen:  # links in a circle
            continue
        seen.add((facts.st_dev, facts.st_ino))
        inner: list[str] = []
        yield place, _files(top / place, inner)
        waiting += [f"{place}{name}/" for name in sorted(inner, reverse=True)]


def _files(folder: Path, inner: list[str]) -> Iterator[str]:
    """Yield the names of files, and collect those of folders. Raises: DataFolderError."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == _NO_DATA:
                    continue
                if entry.is_dir():
                    inner.append(entry.name)
                elif entry.is_file() or entry.is_symlink():  # a link to nothing is found when it is read
                    yield entry.name
    except OSError as error:
        raise _cannot_list(folder, error) from error


def _cannot_list(folder: Path, error: OSError) -> DataFolderError:
    return DataFolderError(f"cannot list data folder {str(folder)!r}: {error.strerror}; check it and its permissions")
