"""Files that appear whole or not at all: written under a temporary name in their folder, brought to the disk, then renamed."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; without an error it takes the place of ``path``, else the old file stays.

    Source: the usual write, fsync, rename; rename(2) is atomic within a folder.
    Raises: OSError.
    """
    with replacing_files([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield one temporary path each; once all are written and on the disk, they are renamed in the order of ``paths``.

    The temporary names begin with a dot, are unique and have the suffix of their path. The files get the mode that the umask leaves of
    0666, whatever their writer did. A symbolic link in ``paths`` is replaced, not its target.
    Raises: OSError.
    """
    temporary: list[Path] = []
    try:
        modes: list[int] = []
        for path in paths:
            new, mode = _create_beside(path)
            temporary.append(new)
            modes.append(mode)
        yield list(temporary)
        for new, mode in zip(temporary, modes, strict=True):
            _store(new, mode)
        for new, path in zip(temporary, paths, strict=True):
            os.replace(new, path)
    finally:
        for new in temporary:
            new.unlink(missing_ok=True)


def bring_to_disk(folder: Path, pattern: str = "*") -> None:
    """Set the mode that the umask leaves of 0666 on the files below a folder, and wait until they are stored. Raises: OSError.

    Recent versions of safetensors write files that only their owner can read.
    """
    probe, mode = _create_beside(folder / "probe")
    probe.unlink()
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


def _create_beside(path: Path) -> tuple[Path, int]:
    """Return an empty file of a new name in the folder of ``path``, and its mode, as the system takes it from the umask."""
    new = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return new, os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


def _store(path: Path, mode: int) -> None:
    """Set the mode and wait until the content is stored: a rename may otherwise outlive what it names when power fails."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)
