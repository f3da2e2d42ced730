"""Remote shards on local disk, up to a limit, and the indexes of all shards that have none beside them.

Several processes may share a cache: a download has a name of its own until it is whole, and one process at a time downloads a shard. A
shard that is removed while another process reads it stays readable there until it is closed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jointnet.data.remote_files import download, scheme_of
from jointnet.data.shard_index import INDEX_SUFFIX, ShardIndex, index_tar
from jointnet.errors import DataFolderError
from jointnet.files.lock import waiting_for
from jointnet.files.write_errors import naming_write_errors, reason

_NUM_LOCKS = 64
_ABANDONED_S = 24 * 3600
"""Age of a download that nobody ends any more."""


@dataclass(frozen=True)
class ShardCache:
    """A folder for downloaded shards and for indexes.

    Attributes:
        limit_bytes: of the downloaded shards; the least recently used are removed first. Indexes stay: each is about a thousandth of
            its shard.
    """

    folder: Path
    limit_bytes: int

    def shard(self, name: str) -> Path:
        """Return a shard on local disk: a local one where it lies, a remote one downloaded.

        Raises: DataFolderError if it cannot be had; OutputError if the cache cannot be written.
        """
        if scheme_of(name) is None:
            return Path(name)
        path = self.folder / "shards" / f"{_hash(name)}.tar"
        with naming_write_errors(path):
            if not _touch(path):
                with self._only_one("shards", name):
                    if not _touch(path):  # another process has downloaded it meanwhile
                        self._download(name, path)
        return path

    def index(self, name: str, *, has_sizes: bool = False) -> Path:
        """Return a shard's index: the one beside it, or the cache's, which is made if there is none yet.

        Args:
            has_sizes: with the pictures' sizes; an index that has none is made anew.
        Raises: as ``shard``; DataFolderError if the shard cannot be read to its end.
        """
        is_remote = scheme_of(name) is not None
        beside, facts = Path(f"{name}{INDEX_SUFFIX}"), [] if is_remote else _facts(name)
        if not is_remote and beside.is_file():
            with suppress(DataFolderError):  # damaged: made anew in the cache, never in the user's folder
                index = ShardIndex(beside)
                if index.tar_bytes == facts[0] and (index.has_sizes or not has_sizes):
                    return beside
        path = self.folder / "indexes" / f"{_hash(name, *facts)}{INDEX_SUFFIX}"
        if _is_index(path, has_sizes=has_sizes):
            return path
        with naming_write_errors(path), self._only_one("indexes", name):
            if is_remote and not _is_index(path):
                self._download_index(name, path)
            if not _is_index(path, has_sizes=has_sizes):
                index_tar(self.shard(name), name, path, has_sizes=has_sizes)
        return path

    def _download_index(self, name: str, path: Path) -> None:
        """Download the index beside a remote shard, if there is one that can be read."""
        temporary = _new_beside(path)
        try:
            with suppress(DataFolderError):
                download(f"{name}{INDEX_SUFFIX}", temporary)
                if _is_index(temporary):
                    os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _download(self, name: str, path: Path) -> None:
        temporary = _new_beside(path)
        try:
            self._remove_unused(0)
            download(name, temporary)
            size = temporary.stat().st_size
            if size > self.limit_bytes:
                raise DataFolderError(
                    f"got shard {name!r} of {size} bytes for a cache of {self.limit_bytes}; expected room for one shard: raise the limit"
                )
            self._remove_unused(size)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_unused(self, num_new: int) -> None:
        """Remove the least recently used shards until so many new bytes have room."""
        shards: list[tuple[float, int, Path]] = []
        for path in (self.folder / "shards").iterdir():
            with suppress(FileNotFoundError):  # another process removes it
                facts = path.stat()
                if not path.name.startswith("."):
                    shards.append((facts.st_mtime, facts.st_size, path))
                elif time.time() - facts.st_mtime > _ABANDONED_S:
                    path.unlink(missing_ok=True)
        too_much = sum(size for _, size, _ in shards) + num_new - self.limit_bytes
        for _, size, path in sorted(shards):
            if too_much <= 0:
                return
            path.unlink(missing_ok=True)
            too_much -= size

    @contextmanager
    def _only_one(self, kind: str, name: str) -> Iterator[None]:
        """Wait until no other process or thread of this machine makes a file whose name shares the lock; without locks, do not wait.

        Who makes an index may hold its lock while the shard is downloaded, never the other way round.
        """
        for folder in (kind, "locks"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        with waiting_for(self.folder / "locks" / f"{kind}-{int(_hash(name), 16) % _NUM_LOCKS}"):
            yield


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def _facts(name: str) -> list[object]:
    """Return size and time of a local shard, by which its index is known. Raises: DataFolderError."""
    try:
        facts = os.stat(name)
    except OSError as error:
        raise DataFolderError(f"cannot read shard {name!r}: {reason(error)}; check the path and its permissions") from error
    return [facts.st_size, facts.st_mtime_ns, os.path.abspath(name)]


def _is_index(path: Path, *, has_sizes: bool = False) -> bool:
    try:
        return ShardIndex(path).has_sizes or not has_sizes
    except DataFolderError:
        return False


def _touch(path: Path) -> bool:
    """Note that a file is used now; return False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # of another user, and readable
        return path.is_file()
    return True


def _new_beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
