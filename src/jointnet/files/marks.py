"""A mark in a file's content, by which it is known as ours and as unchanged since: a file that somebody edited is theirs."""

from __future__ import annotations

import hashlib
from pathlib import Path

_NAME, _UNKNOWN = b"jointnet sha256:", b"0" * 64
MARK = _NAME + _UNKNOWN
"""What a content holds once before ``marked`` puts the digest in its place: at the beginning, within the first _REACH bytes."""

_REACH = 4096


def marked(content: bytes) -> bytes:
    """Return a content with the digest of itself, as it is with zeros for the digest, in its mark."""
    return content.replace(MARK, _NAME + hashlib.sha256(content).hexdigest().encode(), 1)


def is_unchanged(path: Path) -> bool:
    """Return True if a file is as ``marked`` left it; a link, a folder or a pipe never is. Raises: OSError if it cannot be read."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_REACH)
        found = start.find(_NAME)
        if found < 0:
            return False
        content = start + file.read()
    plain = content[: found + len(_NAME)] + _UNKNOWN + content[found + len(MARK) :]
    return marked(plain) == content
