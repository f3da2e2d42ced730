"""Errors of the disk as one line that names the file, the reason and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from jointnet.errors import OutputError


@contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Raise OutputError where writing to ``path`` fails: a full or read-only disk, a link to nothing, no permission."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        link = next((each for each in (path, *path.parents) if is_link_to_nothing(each)), None)
        if link is not None:
            target = str(link.readlink())
            raise OutputError(
                f"cannot write {str(path)!r}: {link.name} is a link to {target!r}, which is not there; mount it, or remove the link"
            ) from error
        raise OutputError(f"cannot write {str(path)!r}: {reason(error)}; free space or choose another folder") from error


def is_link_to_nothing(path: Path) -> bool:
    """Return True for a symbolic link whose target is not there."""
    return path.is_symlink() and not path.exists()


def reason(error: BaseException) -> str:
    """Return what the system names as the reason, without the paths of temporary files."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
