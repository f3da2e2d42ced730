"""Index of a tar shard: which files each sample has, and where they lie; made once, then mapped into memory.

An index is a safetensors file of arrays, so that its size on disk is no size in memory: ``keys`` holds all keys in UTF-8 without
gaps, ``key_ends`` (N + 1) where each one ends, ``members`` (M, 3) the kind, offset and size of each file, sample by sample,
``member_ends`` (N + 1) where each sample's files end, and ``sizes`` (N, 2), which may be absent, the heights and widths of the pictures, 0
for one that cannot be read. Kinds are numbers of a list of suffixes ("jpg", "depth.png") in its head.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jointnet.data.shard_samples import MAX_PIXELS, PICTURE_KINDS
from jointnet.errors import DataFolderError, InputFileError
from jointnet.files.atomic import replacing_file
from jointnet.files.fingerprints import of_texts
from jointnet.files.write_errors import naming_write_errors, reason
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.picture_files import picture_size, size_in_head

INDEX_SUFFIX = ".index.safetensors"
"""Of the index beside a shard, after the shard's whole name."""

_MAX_BYTES = 2**28
_HEAD, _VERSION = "index", 1
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


class Member(NamedTuple):
    """A file of a sample: its kind ("jpg", "depth.png", in lower case), and where its bytes lie in the shard."""

    kind: str
    offset: int
    size: int


class IndexBuilder:
    """Collects a shard's files; those of one key are one sample, also where they do not follow each other."""

    def __init__(self, *, has_sizes: bool) -> None:
        self._sizes = array("i") if has_sizes else None
        self._rows: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self._members = array("q")  # row, kind, offset, size of each

    def add(self, key: str, kind: str, offset: int, size: int, file: BinaryIO) -> None:
        """Add a file; the first one of a key opens its sample. Only the heads of pictures are read of it, where sizes are wanted."""
        row = self._rows.setdefault(key, len(self._rows))
        if self._sizes is not None:
            if len(self._sizes) < 2 * len(self._rows):
                self._sizes.extend((0, 0))
            if kind in PICTURE_KINDS:
                self._sizes[2 * row : 2 * row + 2] = array("i", _size_of(file, f"{key}.{kind}"))
        self._members.extend((row, self._kinds.setdefault(kind, len(self._kinds)), offset, size))

    def save(self, path: Path, tar_bytes: int) -> None:
        """Write the index of a shard of so many bytes. Raises: OutputError."""
        keys = [key.encode(errors="surrogateescape") for key in self._rows]
        members = np.frombuffer(self._members, np.int64).reshape(-1, 4)
        members = members[np.argsort(members[:, 0], kind="stable")]
        arrays = {
            "keys": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([0, *map(len, keys)], dtype=np.int64),
            "members": np.ascontiguousarray(members[:, 1:]),
            "member_ends": np.searchsorted(members[:, 0], np.arange(len(keys) + 1)).astype(np.int64),
        }
        if self._sizes is not None:
            arrays["sizes"] = np.frombuffer(self._sizes, np.int32).reshape(-1, 2)
        head = json.dumps({"version": _VERSION, "tar_bytes": tar_bytes, "kinds": list(self._kinds)})
        with naming_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary:
                save_file(arrays, temporary, metadata={_HEAD: head})


class ShardIndex:
    """An index file, mapped into memory.

    Raises: DataFolderError if it is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, "np")
            head = json.loads((self._file.metadata() or {}).get(_HEAD, "{}"))
            if head.get("version") != _VERSION:
                raise ValueError(f"it has version {head.get('version')}, not {_VERSION}")
            self.tar_bytes: int = head["tar_bytes"]
            self._kinds: list[str] = head["kinds"]
            self._num_rows: int = self._file.get_slice("key_ends").get_shape()[0] - 1
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise DataFolderError(f"cannot read shard index {str(path)!r}: {reason(error)}; remove it, it is made anew") from error

    def __len__(self) -> int:
        return self._num_rows

    @property
    def has_sizes(self) -> bool:
        """True if it has the pictures' sizes."""
        return "sizes" in self._file.keys()  # noqa: SIM118 - it is no mapping

    def sizes(self) -> np.ndarray:
        """Return heights and widths (N, 2) of an index that has them."""
        return self._file.get_tensor("sizes")

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the files' names, places and sizes, but not with those of the pictures."""
        arrays = (self._file.get_tensor(name).tobytes() for name in ("keys", "key_ends", "members", "member_ends"))
        return of_texts([json.dumps([self.tar_bytes, self._kinds]), *(hashlib.sha256(content).hexdigest() for content in arrays)])

    def key(self, row: int) -> str:
        """Return a sample's key."""
        start, end = self._file.get_slice("key_ends")[row : row + 2]
        return self._file.get_slice("keys")[start:end].tobytes().decode(errors="surrogateescape")

    def members(self, row: int) -> list[Member]:
        """Return a sample's files in the order of the shard."""
        start, end = self._file.get_slice("member_ends")[row : row + 2]
        rows = self._file.get_slice("members")[start:end]
        return [Member(self._kinds[kind], offset, size) for kind, offset, size in rows.tolist()]


def index_tar(path: Path, name: str, index: Path, *, has_sizes: bool = False) -> None:
    """Read the heads of a tar file's members and write its index. Memory grows with the keys of this one shard.

    Args:
        name: by which errors call the shard.
        has_sizes: read the heads of the pictures, too.
    Raises: DataFolderError if the shard cannot be read to its end; OutputError.
    """
    builder = IndexBuilder(has_sizes=has_sizes)
    for file in _files(path, name):
        builder.add(*file)
    builder.save(index, path.stat().st_size)


def split_name(name: str) -> tuple[str, str] | None:
    """A member's name -> key and kind; None for names without either, which are no part of a sample.

    The key is the name up to the first dot of its last part, folders kept; the kind is what follows, in lower case.
    Source: WebDataset's basename rule.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    base, dot, kind = last.partition(".")
    return (f"{folder}{slash}{base}", kind.lower()) if base and dot and kind else None


def _files(path: Path, name: str) -> Iterator[tuple[str, str, int, int, BinaryIO]]:
    """Yield key, kind, offset and size of each file, and the file. Raises: DataFolderError."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            compressed = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)
            if compressed is not None:
                raise DataFolderError(f"got shard {name!r}, which is compressed ({compressed}); unpack it to a plain .tar first")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile keeps all
                    parts = split_name(member.name)
                    if member.isreg() and not member.issparse() and parts is not None:
                        yield *parts, member.offset_data, member.size, cast(BinaryIO, tar.extractfile(member))
                _check_end(file.fileno(), tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataFolderError(f"cannot read shard {name!r}: {reason(error)}; download or write it anew") from error


def _size_of(file: BinaryIO, name: str) -> tuple[int, int]:
    """Return height and width of a picture; (0, 0) if it cannot be read."""
    size = size_in_head(file)
    if size is not None:
        return size
    file.seek(0)
    try:
        return picture_size(FileContent(name, file.read(_MAX_BYTES), MAX_PIXELS))
    except InputFileError:
        return 0, 0


def _check_end(file: int, offset: int) -> None:
    """Check that a tar file ends with an end mark, as tarfile does not. Raises: tarfile.ReadError."""
    block = os.pread(file, _BLOCK, offset)
    if len(block) < _BLOCK:
        raise tarfile.ReadError(f"it ends at byte {offset} without an end mark, so it is cut off")
    if any(block):
        raise tarfile.ReadError(f"it is damaged at byte {offset}")
