"""Tar shards with their indexes, the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

from jointnet.data.manifest import ShardFacts
from jointnet.data.shard_index import INDEX_SUFFIX, IndexBuilder
from jointnet.files.write_errors import naming_write_errors

_BLOCK = 512
_LONGEST_KEY = 150


def key_of(id_: str) -> str:
    """Return an id as a key of a shard: dots, slashes and what file names may not have as %XX; a long one is shortened."""
    key = quote(id_, safe="", errors="surrogateescape").replace(".", "%2E")
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[: _LONGEST_KEY - 33]}-{hashlib.sha256(id_.encode(errors='surrogateescape')).hexdigest()[:32]}"


class ShardWriter:
    """Writes a tar file, and the index beside it when it is closed without an error.

    Use it as a context manager; give it a name that nobody reads, and rename both files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_samples = 0
        self._index = IndexBuilder(has_sizes=True)

    def __enter__(self) -> ShardWriter:
        with naming_write_errors(self.path):
            self._file = _HashedFile(self.path.open("wb"))
            self._tar = tarfile.open(fileobj=self._file, mode="w:", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type] - it writes and tells
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with naming_write_errors(self.path):
            if kind is None:
                self._tar.close()
            self._file.close()
        if kind is None:
            self._index.save(self.index_path, self._file.tell())

    @property
    def index_path(self) -> Path:
        """The index's file."""
        return self.path.with_name(self.path.name + INDEX_SUFFIX)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Add a sample: its files by kind ("jpg", "depth.png"). Raises: OutputError."""
        assert "." not in key, key
        self.num_samples += 1
        for kind, content in files.items():
            member = tarfile.TarInfo(f"{key}.{kind}")
            member.size, member.mode = len(content), 0o644
            with naming_write_errors(self.path):
                self._tar.addfile(member, BytesIO(content))
            self._index.add(key, kind, self._tar.offset - -(-len(content) // _BLOCK) * _BLOCK, len(content), BytesIO(content))

    def facts(self, name: str) -> ShardFacts:
        """Return the facts of a shard that is closed, under its final name."""
        return ShardFacts(name, self.num_samples, self._file.tell(), self._file.sha256.hexdigest())


class _HashedFile:
    """A file that is written once from its beginning to its end, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._length = file, 0
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self._length += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._length

    def close(self) -> None:
        self._file.close()
