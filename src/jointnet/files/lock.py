"""A folder that one process at a time writes to."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jointnet.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_FILE = ".lock"

_held: dict[Path, tuple[int, int]] = {}
"""Folder -> the file handle that locks it, and the thread that holds it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that exists: another process, or another thread, is refused meanwhile; nested calls of one thread are not.

    The system lets go of the lock when the process ends, however it ends. Where it has no locks (Windows, some network disks), nothing
    is refused.
    Raises: OutputError if the folder is held; OSError.
    """
    place = folder.resolve()
    if place in _held and _held[place][1] == threading.get_ident():
        yield
        return
    handle = _acquire(place / LOCK_FILE, folder)
    _held[place] = (handle, threading.get_ident())
    try:
        yield
    finally:
        del _held[place]
        os.close(handle)


def _acquire(path: Path, folder: Path) -> int:
    """Return the locked file's handle. Raises: OutputError; OSError."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, folder)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):  # else its last holder removed it meanwhile
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise OutputError(f"got {str(folder)!r}, which {who} is writing to; wait until it ends, or choose another folder") from error
    except OSError:  # a disk without locks
        return


def _let_go_in_child() -> None:
    """Close a forked child's handles: else a worker that outlives its parent would go on holding the folder."""
    for handle, _ in _held.values():
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
