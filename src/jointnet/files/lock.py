"""A folder that one process at a time writes to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jointnet.errors import FolderHeldError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_FILE = ".lock"
"""Holds the number of the process; it is there while the folder is held, and after a kill until the folder is held again."""

_MOST_BYTES = 20
"""Of a process's number."""

_held: dict[Path, tuple[int, int]] = {}
"""Folder -> the file handle that locks it, and the thread that holds it."""


def check_lock(folder: Path) -> None:
    """Raises: OutputError if a folder has a LOCK_FILE that is not empty and holds no process's number; OSError."""
    path = folder / LOCK_FILE
    try:
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) and facts.st_size <= _MOST_BYTES else b"none of ours"
    except FileNotFoundError:
        return
    if content and not content.isdigit():
        raise OutputError(f"got {str(path)!r}, which is no lock of ours; choose another folder, or move it away")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that exists: another process, or another thread, is refused meanwhile; nested calls of one thread are not.

    The system lets go of the lock when the process ends, however it ends. Where it has no locks (Windows, some network disks), nothing
    is refused.
    Raises: FolderHeldError; OutputError if it has a LOCK_FILE that is not ours; OSError.
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
        if _held.pop(place, None) is not None:  # a forked child holds nothing
            _release(place / LOCK_FILE, handle)


def _acquire(path: Path, folder: Path) -> int:
    """Return the locked file's handle. Raises: OutputError; OSError."""
    while True:
        check_lock(folder)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # its last holder removed the folder too
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            _lock(handle, folder)
        except BaseException:
            os.close(handle)
            raise
        if not _is_at(path, handle):  # its last holder removed it meanwhile
            os.close(handle)
            continue
        try:
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        except BaseException:
            _release(path, handle)
            raise


def _release(path: Path, handle: int) -> None:
    """Remove the file and let go of it, in this order: who opened it meanwhile finds another file at the path, or none, and opens anew."""
    try:
        with suppress(OSError):  # Windows removes no open file; a disk may be read-only by now
            if _is_at(path, handle):
                path.unlink()
    finally:
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Return True if an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _lock(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise FolderHeldError(f"got {str(folder)!r}, which {who} is writing to; wait until it ends, or choose another folder") from error
    except OSError:  # a disk without locks
        return


def _let_go_in_child() -> None:
    """Close a forked child's handles: else a worker that outlives its parent would go on holding the folder."""
    for handle, _ in _held.values():
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Hold a folder, or a file that is made for it, once no other process or thread does; where the system has no such locks, do not wait.

    Raises: OSError.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
