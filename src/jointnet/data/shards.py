"""WebDataset tar shards as a source of samples that is read by rows.

``KEY.jpg`` (or .jpeg, .png, .webp) is the picture, ``KEY.txt`` or ``KEY.json`` its captions, ``KEY.MODALITY.npy`` or
``KEY.MODALITY.png`` the map of each other modality, in the units of a data folder; the key is the name up to its first dot.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jointnet.data.each_warning_once import EachWarningOnce
from jointnet.data.manifest import Manifest, ShardFacts, read_manifest
from jointnet.data.sample import Sample
from jointnet.data.shard_cache import ShardCache
from jointnet.data.shard_index import Member, ShardIndex
from jointnet.data.shard_names import expand_shards
from jointnet.data.shard_samples import MAX_PIXELS, decode_sample
from jointnet.errors import BadSampleError, DataFolderError
from jointnet.files.fingerprints import of_texts
from jointnet.files.write_errors import reason
from jointnet.modalities.depth_units import DISPARITY, DepthUnit, get_depth_unit
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.modality import get_modality

CACHE_BYTES = 100 * 2**30
_MAX_MEMBER_BYTES = 2**30
_NUM_OPEN = 32
"""Shards that a process holds open at once."""


@dataclass(frozen=True)
class ShardSource:
    """A Source over tar shards.

    Attributes:
        shards: paths or URLs (s3, gs, http, https), patterns, ranges as ``{000..012}.tar``, folders; or a list of such.
        cache: folder for downloaded shards, and for the indexes of shards that have none beside them; several processes may share it.
        cache_bytes: limit of the downloaded shards; the least recently used ones are removed.
        depth_unit: what the numbers of the depth maps mean, or its name in DEPTH_UNITS.
        max_pixels: of a picture or a map.
    """

    shards: str | Path | Sequence[str | Path]
    cache: str | Path
    cache_bytes: int = CACHE_BYTES
    depth_unit: str | DepthUnit = DISPARITY
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def blocks(self) -> Sequence[int]:
        """Numbers of samples of the shards, in order. Raises: DataFolderError if a shard cannot be read."""
        return np.diff(self._ends, prepend=0).tolist()

    def id_of(self, row: int) -> str:
        """Return the shard's name without its suffix, and the key."""
        shard, row_in_shard = self._locate(row)
        return f"{self._prefixes[shard]}/{self._open(shard).index.key(row_in_shard)}"

    def size_of(self, row: int) -> tuple[int, int] | None:
        """Return height and width of a picture as it is stored; None if it cannot be read.

        They stand in the indexes of shards that we built; of another shard the heads of all pictures are read once, and kept in the cache.
        Raises: DataFolderError.
        """
        shard, row_in_shard = self._locate(row)
        height, width = self._open(shard).sizes[row_in_shard].tolist()
        return (height, width) if height else None

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        """Read a row with the maps of these modalities.

        Raises: BadSampleError if it cannot be used; DataFolderError if its shard cannot be read.
        """
        files, id_ = self.files(row), self.id_of(row)
        with self._warnings.watch():
            return decode_sample(id_, files, modalities, self.depth_unit)

    def files(self, row: int) -> dict[str, Callable[[], FileContent]]:
        """Return a row's files by kind ("jpg", "depth.png"), each read when it is called.

        Raises: BadSampleError if two are of one kind; DataFolderError.
        """
        shard, row_in_shard = self._locate(row)
        opened = self._open(shard)
        members, key = opened.index.members(row_in_shard), opened.index.key(row_in_shard)
        if len({member.kind for member in members}) < len(members):
            raise BadSampleError(f"got two files of one name for {key!r} in {opened.name!r}; expected one of each", "two files of one name")
        return {member.kind: partial(opened.read, key, member, self.max_pixels) for member in members}

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return hashes by which the data are known, one a modality and one for "captions"; they stay when the shards are moved.

        A shard is known by the SHA-256 in its manifest where our build wrote one, else by a hash of its index and by its size: a file that
        is changed within a shard without a change of its size is then not noticed. All kinds share the shards, and so the hash.
        Raises: DataFolderError.
        """
        names = [PurePosixPath(name).name for name in self._names]
        hashes = [
            ShardIndex(self._cache.index(name)).fingerprint() if facts is None else facts.sha256
            for name, facts in zip(self._names, self._facts, strict=True)
        ]
        of_all = of_texts(f"{name} {hash_}" for name, hash_ in zip(names, hashes, strict=True))
        unit = get_depth_unit(self.depth_unit)
        in_unit = f" in {unit.name}, near {unit.near_m} m" if unit.metres is not None else ""
        return {name: of_all + (in_unit if name == "depth" else "") for name in ("captions", *map(_known, modalities))}

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which all depth maps read 1, where the unit or the manifests say so."""
        near_m = get_depth_unit(self.depth_unit).near_m
        if near_m is not None:
            return near_m
        found = {None if manifest is None else manifest.depth_near_m for manifest in self._manifests.values()}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def _names(self) -> list[str]:
        return expand_shards(self.shards)

    @cached_property
    def _prefixes(self) -> list[str]:
        """What the ids of each shard begin with: the shard's name, or its path below the common folder if names repeat."""
        names = [PurePosixPath(name.partition("?")[0]).with_suffix("") for name in self._names]
        if len({path.name for path in names}) == len(names):
            return [path.name for path in names]
        common = os.path.commonpath([path.parent for path in names])
        return [str(path.relative_to(common)) for path in names]

    @cached_property
    def _manifests(self) -> dict[str, Manifest | None]:
        """By folder."""
        return {folder: read_manifest(folder) for folder in dict.fromkeys(map(_folder, self._names))}

    @cached_property
    def _facts(self) -> list[ShardFacts | None]:
        """What the manifests say of each shard."""
        by_folder = {folder: {} if m is None else {shard.name: shard for shard in m.shards} for folder, m in self._manifests.items()}
        return [by_folder[_folder(name)].get(PurePosixPath(name).name) for name in self._names]

    @cached_property
    def _ends(self) -> np.ndarray:
        """Number of rows up to and with each shard (S,). Raises: DataFolderError."""
        counts = [
            len(ShardIndex(self._cache.index(name))) if facts is None else facts.samples
            for name, facts in zip(self._names, self._facts, strict=True)
        ]
        if not sum(counts):
            raise DataFolderError(
                f"got no sample in {self._names[0]!r}{' and the others' * (len(counts) > 1)}; expected KEY.jpg with KEY.txt"
            )
        return np.array(list(accumulate(counts)), np.int64)

    @property
    def _cache(self) -> ShardCache:
        return ShardCache(Path(self.cache), self.cache_bytes)

    @cached_property
    def _warnings(self) -> EachWarningOnce:
        return EachWarningOnce()

    @cached_property
    def _handles(self) -> _OpenShards:
        return _OpenShards()

    def _locate(self, row: int) -> tuple[int, int]:
        """A row -> its shard's number, and its row there. Raises: IndexError."""
        if not 0 <= row < len(self):
            raise IndexError(f"got row {row} of {len(self)}")
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return shard, row - self._start(shard)

    def _start(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0

    def _open(self, shard: int) -> _OpenShard:
        """Raises: DataFolderError."""
        name = self._names[shard]
        return self._handles.get(
            name, partial(_OpenShard, name, self._cache, self._facts[shard], int(self._ends[shard]) - self._start(shard))
        )


class _OpenShard:
    """A shard's index in memory's map, and its file, which is opened when it is first read. Raises: DataFolderError."""

    def __init__(self, name: str, cache: ShardCache, facts: ShardFacts | None, num_rows: int) -> None:
        self.name, self._cache = name, cache
        self.index = ShardIndex(cache.index(name))
        if facts is not None and (facts.samples, facts.bytes) != (len(self.index), self.index.tar_bytes):
            raise DataFolderError(
                f"got shard {name!r} of {self.index.tar_bytes} bytes and {len(self.index)} samples; its manifest says {facts.bytes} and "
                f"{facts.samples}: copy or build it anew"
            )
        if len(self.index) != num_rows:
            raise self._changed()
        self._file: int | None = None
        self._opening = threading.Lock()

    @cached_property
    def sizes(self) -> np.ndarray:
        """Heights and widths of all pictures (N, 2), 0 of those that cannot be read. Raises: DataFolderError."""
        sizes = ShardIndex(self._cache.index(self.name, has_sizes=True)).sizes()
        if len(sizes) != len(self.index):
            raise self._changed()
        return sizes

    def read(self, key: str, member: Member, max_pixels: int) -> FileContent:
        """Read a file of a sample. Raises: BadSampleError if it is too large; DataFolderError."""
        path = f"{self.name}/{key}.{member.kind}"
        if member.size > _MAX_MEMBER_BYTES:
            raise BadSampleError(f"got {path!r} of {member.size} bytes; expected at most {_MAX_MEMBER_BYTES}", "too many bytes")
        with self._opening:
            file = self._file = self._open() if self._file is None else self._file
        try:
            content = os.pread(file, member.size, member.offset)
        except OSError as error:
            raise DataFolderError(f"cannot read shard {self.name!r}: {reason(error)}; check the disk") from error
        if len(content) < member.size:
            raise DataFolderError(f"got shard {self.name!r} with {path!r} cut off; download or write it anew")
        return FileContent(path, content, max_pixels)

    def _open(self) -> int:
        for _ in range(3):  # another process may remove it from the cache before it is open
            try:
                file = os.open(self._cache.shard(self.name), os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DataFolderError(f"cannot read shard {self.name!r}: {reason(error)}; check its permissions") from error
            if os.fstat(file).st_size == self.index.tar_bytes:
                return file
            os.close(file)
            raise self._changed()
        raise DataFolderError(f"cannot read shard {self.name!r}: no such file; check the path, and that the cache has room for its shards")

    def _changed(self) -> DataFolderError:
        return DataFolderError(
            f"got shard {self.name!r}, which has changed since it was indexed; start anew, and if that does not help, empty the cache "
            f"{str(self._cache.folder)!r}"
        )

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type] - not None


class _OpenShards:
    """The shards that this process has open, the least recently used closed first; a copy in another process starts without any.

    One that is dropped is closed when its last reader has done.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _OpenShard] = OrderedDict()

    def get(self, name: str, open_: Callable[[], _OpenShard]) -> _OpenShard:
        """Return an open shard."""
        if self._process != os.getpid():  # forked: whoever held the lock is not here to let go of it
            self.__init__()
        with self._lock:
            if name in self._opened:
                self._opened.move_to_end(name)
                return self._opened[name]
        opened = open_()
        with self._lock:
            self._opened[name] = opened
            while len(self._opened) > _NUM_OPEN:
                self._opened.popitem(last=False)
        return opened

    def __reduce__(self) -> tuple[type[_OpenShards], tuple[Any, ...]]:
        return _OpenShards, ()


def _folder(name: str) -> str:
    return name.rpartition("/")[0] or ("/" if name.startswith("/") else ".")


def _known(modality: str) -> str:
    """Raises: UnknownNameError."""
    return get_modality(modality).name
