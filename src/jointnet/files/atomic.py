"""Files that appear whole or not at all: written under a temporary name in their folder, brought to the disk, then renamed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; without an error it takes the place of ``path``, else the old file stays.

    The temporary file is there and empty; its name begins with a dot, is unique and has the suffix of ``path``. The file gets the mode that
    the umask leaves of 0666, whatever its writer did. A symbolic link is replaced, not its target.
    Source: the usual write, fsync, rename; rename(2) is atomic within a file system.
    Raises: OSError.
    """
    temporary = _name_beside(path, path.suffix)
    try:
        mode = _create(temporary)
        yield temporary
        _store(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_files(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Yield one temporary path each; once all are written and on the disk, they are renamed into the folder in the order of ``names``.

    The temporary paths have these names in one hidden folder of a unique name, which is removed in the end; no file is there before it is
    written. Modes and links as in ``replacing_file``.
    Raises: OSError, also for a file that was not written; then no file of the folder is changed.
    """
    hidden = _name_beside(folder / "files")
    temporary = [hidden / name for name in names]
    try:
        hidden.mkdir()
        hidden.chmod(stat.S_IMODE(hidden.stat().st_mode) | stat.S_IRWXU)  # whatever the umask leaves, its owner writes into it
        mode = _mode_in(hidden)
        yield list(temporary)
        for new in temporary:
            _store(new, mode)
        for new, name in zip(temporary, names, strict=True):
            os.replace(new, folder / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def bring_to_disk(folder: Path, pattern: str = "*") -> None:
    """Set the mode that the umask leaves of 0666 on the files below a folder, and wait until they are stored. Raises: OSError.

    Recent versions of safetensors write files that only their owner can read.
    """
    mode = _mode_in(folder)
    for path in folder.rglob(pattern):
        if path.is_file() and not path.is_symlink():
            _store(path, mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file. Raises: OSError."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write or replace a file in UTF-8. Raises: OSError."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any, *, indent: int = 1, sort_keys: bool = False) -> None:
    """Write or replace a JSON file. Raises: OSError; TypeError, ValueError for a value that JSON does not have."""
    text = json_text(value, indent=indent, sort_keys=sort_keys)
    write_bytes(path, text.encode(errors="backslashreplace"))  # bytes of file names that are no UTF-8 become JSON's escapes


def json_text(value: Any, *, indent: int = 1, sort_keys: bool = False) -> str:
    """Return the content of a JSON file: letters as they are, a line break at the end. Raises: TypeError, ValueError."""
    return json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False) + "\n"


def _name_beside(path: Path, suffix: str = "") -> Path:
    """Return a new, hidden name in the folder of ``path``."""
    return path.with_name(f".{secrets.token_hex(8)}{suffix}")


def _create(path: Path) -> int:
    """Create an empty file; return its mode, as the system takes it from the umask. Raises: OSError, also if it is there."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


def _mode_in(folder: Path) -> int:
    """Return the mode of new files in a folder. Raises: OSError."""
    probe = _name_beside(folder / "probe")
    try:
        return _create(probe)
    finally:
        probe.unlink(missing_ok=True)


def _store(path: Path, mode: int) -> None:
    """Set the mode and wait until the content is stored: a rename may otherwise outlive what it names when power fails."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)
