"""Names of shards: local paths, URLs, patterns, ranges in braces and folders -> one list."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path

from jointnet.data.manifest import MANIFEST_FILE, read_manifest
from jointnet.data.remote_files import matching, scheme_of
from jointnet.data.sample_files import PICTURE_SUFFIXES
from jointnet.errors import DataFolderError

SHARD_SUFFIX = ".tar"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_NAMES = 10_000_000


def holds_shards(path: str) -> bool:
    """Return True for a name, pattern or address of shards, and for a folder of them. Raises: DataFolderError for an unknown scheme."""
    if path.endswith(SHARD_SUFFIX) or scheme_of(path) is not None:
        return True
    return Path(path).is_dir() and (read_manifest(path) is not None or _holds_only_shards(path))


def _holds_only_shards(folder: str) -> bool:
    """Return True if there are shards and no pictures; who has unpacked an archive beside it has pictures."""
    is_found = False
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in PICTURE_SUFFIXES:
                return False
            is_found |= suffix == SHARD_SUFFIX
    return is_found


def expand_shards(shards: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the shards in order: those of a pattern or a folder sorted by name, others as they are listed.

    A folder stands for the shards of its manifest, or else for all its .tar files; ``{000..012}`` and ``{a,b}`` for each in turn.
    Raises: DataFolderError if one stands for nothing, has another scheme or comes twice.
    """
    patterns = [shards] if isinstance(shards, str | Path) else shards
    names = [name for pattern in patterns for name in _expand(str(pattern))]
    if not names:
        raise DataFolderError("got no shard; expected the names of .tar files")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataFolderError(f"got shard {name!r} {count} times; name each one once")
    return names


def _expand(pattern: str) -> list[str]:
    """Raises: DataFolderError."""
    scheme = scheme_of(pattern)
    if scheme is None and Path(pattern).is_file():  # whatever signs are in its name
        return [pattern]
    if (scheme is None and Path(pattern).is_dir()) or (scheme is not None and pattern.endswith("/")):
        return _of_folder(pattern.rstrip("/") or "/", scheme)
    found: list[str] = []
    for name in _without_braces(pattern):
        is_pattern = "*" in name if (scheme or "").startswith("http") else has_magic(name)  # "?" opens a query in an address
        matches = (sorted(glob(name)) if scheme is None else matching(name)) if is_pattern else [name]
        if not matches or (scheme is None and not is_pattern and not Path(name).exists()):
            raise DataFolderError(f"got {name!r}, which is no shard that is there; check the path, or make the shards again")
        found += matches
        if len(found) > _MAX_NAMES:
            raise DataFolderError(f"got {pattern!r}, which stands for more than {_MAX_NAMES} shards; is the range right?")
    return found


def _of_folder(folder: str, scheme: str | None) -> list[str]:
    manifest = read_manifest(folder)
    if manifest is not None:
        return [f"{folder}/{shard.name}" for shard in manifest.shards]
    found = sorted(glob(f"{glob_escaped(folder)}/*{SHARD_SUFFIX}")) if scheme is None else matching(f"{folder}/*{SHARD_SUFFIX}")
    if not found:
        raise DataFolderError(f"got {folder!r} without a {MANIFEST_FILE} or {SHARD_SUFFIX} files; expected shards in it")
    return found


def glob_escaped(path: str) -> str:
    """Return a path in which no sign stands for others."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _without_braces(pattern: str) -> Iterator[str]:
    """Yield a pattern for each value of its braces; the leftmost change slowest."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    for choice in _choices(found[1], pattern):
        for rest in _without_braces(pattern[found.end() :]):
            yield f"{pattern[: found.start()]}{choice}{rest}"


def _choices(inner: str, pattern: str) -> Iterator[str]:
    """Raises: DataFolderError."""
    numbers = _RANGE.fullmatch(inner)
    if numbers is None:
        if "," not in inner:
            raise DataFolderError(f"got {{{inner}}} in {pattern!r}; expected a range such as {{000..012}}, or names as {{a,b}}")
        yield from inner.split(",")
        return
    first, last = numbers.groups()
    digits = len(first) if first.startswith("0") or len(first) == len(last) else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield str(number).zfill(digits)
