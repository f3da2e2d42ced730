"""A long list of short byte strings in one memory-mapped file: no Python object stands for an item until it is asked for."""

from __future__ import annotations

import filecmp
import os
import secrets
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

from jointnet.errors import DataFolderError
from jointnet.files.write_errors import naming_write_errors, reason

_OFFSET = struct.Struct("<q")
_SPAN = struct.Struct("<qq")


class PackedList:
    """Items one after the other, then where each begins (int64, one more than items), then their number.

    It can be sent to another process: a file is opened there again, a temporary one is sent as a whole.
    """

    def __init__(self, content: mmap | bytes, path: Path | None = None) -> None:
        self._content, self._path = content, path
        (self._length,) = _OFFSET.unpack_from(content, len(content) - _OFFSET.size)
        self._offsets = len(content) - _OFFSET.size * (self._length + 2)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> bytes:
        """Raises: IndexError."""
        if not 0 <= row < self._length:
            raise IndexError(f"got row {row} of {self._length}")
        start, end = _SPAN.unpack_from(self._content, self._offsets + _OFFSET.size * row)
        return self._content[start:end]

    def __iter__(self) -> Iterator[bytes]:
        return (self[row] for row in range(self._length))

    def __reduce__(self) -> tuple[object, tuple[object]]:
        return (PackedList, (self._content[:],)) if self._path is None else (open_packed, (self._path,))


def open_packed(path: Path) -> PackedList:
    """Open a list that ``pack`` wrote. Raises: DataFolderError."""
    try:
        with path.open("rb") as file:
            return PackedList(_mapped(file), path)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise DataFolderError(f"cannot read the list of samples {str(path)!r}: {reason(error)}; start again") from error


def pack(items: Iterable[bytes], path: Path | None) -> PackedList:
    """Write items to a file and open it; None: to a temporary file, which goes with the process.

    A file that holds the same items already stays as it is.
    Raises: OutputError; what ``items`` raises.
    """
    if path is None:
        with naming_write_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
            _write(items, file)
            return PackedList(_mapped(file))
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
        try:
            with new.open("xb") as file:
                _write(items, file)
            if not (path.is_file() and filecmp.cmp(new, path, shallow=False)):
                os.replace(new, path)  # no fsync: the file is never read by a later run
        finally:
            new.unlink(missing_ok=True)
    return open_packed(path)


def _write(items: Iterable[bytes], file: BinaryIO) -> None:
    """Raises: OSError; what ``items`` raises."""
    offsets, end = array("q", [0]), 0
    for item in items:
        file.write(item)
        end += len(item)
        offsets.append(end)
    for number in offsets:
        file.write(_OFFSET.pack(number))
    file.write(_OFFSET.pack(len(offsets) - 1))
    file.flush()


def _mapped(file: BinaryIO) -> mmap:
    return mmap(file.fileno(), 0, access=ACCESS_READ)
