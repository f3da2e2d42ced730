"""Hashes of many files' contents, kept between runs so that a file that was read once is not read again."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from jointnet.files.fingerprints import of_content
from jointnet.files.write_errors import naming_write_errors

_CLOCK_NS = 2_000_000_000
"""Coarsest step of a file system's clock: a file changed so shortly before it was read may be changed again without a new time."""

_VERSION = 1
_SECONDS_UNSAVED = 10.0
"""After a crash no more work than this is done again, and one file."""

_DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""SQLite's codes of a file that is no index of ours (no such table) or broken."""

_TABLE = """CREATE TABLE files (
    name BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode BLOB, content TEXT
) WITHOUT ROWID"""


class ContentIndex:
    """Hashes of the files below ``folder``, by their path in it; ``path``, an SQLite file, keeps them; None: nothing is kept.

    A hash is believed while the file's size, inode and times are what they were. Among them is the time of the last change of the inode,
    which the system sets whenever a file is written, replaced or renamed, also where its date is set back. The folder may be moved.
    A damaged index is made anew; none is made before there is something to keep. Close it, or use it in a ``with``.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.folder, self.path = folder, path
        self._database: sqlite3.Connection | None = None
        self._saved = time.monotonic()
        if path is not None and path.is_file():
            with self._naming_errors(path):
                self._open(path)

    def hash_of(self, name: str) -> str:
        """Return the hash of a file's bytes; the file is read if it is new or has changed. Raises: OSError; OutputError for the index."""
        path = self.folder / name
        facts = _facts(path)
        known = self._known(name)
        if known is not None and known[:-1] == facts:
            return str(known[-1])
        now = time.time_ns()
        content = of_content(path)
        if self.path is not None and _facts(path) == facts and now - facts[2] > _CLOCK_NS:
            self._keep(self.path, name, (*facts, content))
        return content

    def save(self) -> None:
        """Bring what is new to the disk. Raises: OutputError."""
        if self._database is not None and self.path is not None:
            with self._naming_errors(self.path):
                self._database.commit()
        self._saved = time.monotonic()

    def close(self) -> None:
        """Save and close. Raises: OutputError."""
        try:
            self.save()
        finally:
            self._disconnect()

    def __enter__(self) -> ContentIndex:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _known(self, name: str) -> tuple[object, ...] | None:
        """Return the file's facts and hash as they were kept. Raises: OutputError."""
        if self._database is None or self.path is None:
            return None
        with self._naming_errors(self.path):
            columns = "size, mtime_ns, ctime_ns, inode, content"
            return self._database.execute(f"SELECT {columns} FROM files WHERE name = ?", (os.fsencode(name),)).fetchone()
        return None  # it was damaged

    def _keep(self, path: Path, name: str, row: tuple[object, ...]) -> None:
        """Raises: OutputError."""
        with self._naming_errors(path):
            if self._database is None:
                self._create(path)
            assert self._database is not None, "created"
            self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (os.fsencode(name), *row))
        if time.monotonic() - self._saved > _SECONDS_UNSAVED:
            self.save()

    def _open(self, path: Path) -> None:
        """Raises: sqlite3.Error."""
        self._database = sqlite3.connect(path, timeout=60)
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"got version {version}; expected {_VERSION}")
        if version == 0:  # an empty file
            self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database.commit()

    def _create(self, path: Path) -> None:
        """Raises: OSError, sqlite3.Error."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))  # SQLite's own mode is 0644, whatever the umask leaves
        self._open(path)

    @contextmanager
    def _naming_errors(self, path: Path) -> Iterator[None]:
        """Remove a damaged index and go on; raise OutputError where the disk refuses."""
        with naming_write_errors(path):
            try:
                yield
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
                self._disconnect()
                if code in _DAMAGED:
                    for each in (path, path.with_name(f"{path.name}-journal")):
                        each.unlink(missing_ok=True)
                elif code == sqlite3.SQLITE_FULL:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                else:
                    raise OSError(str(error)) from error

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _facts(path: Path) -> tuple[int, int, int, bytes]:
    """Return size, times of the last change of content and inode, and inode, which may have 64 bits without a sign."""
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, str(facts.st_ino).encode()
