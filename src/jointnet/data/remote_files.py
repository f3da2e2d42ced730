"""Files on object stores and web servers through fsspec: lists, sizes, downloads; errors in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from jointnet.errors import DataFolderError, JointNetError, MissingPackageError
from jointnet.files.write_errors import reason

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEMES = ("s3", "gs", "http", "https")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_ATTEMPTS, _PAUSE_S = 3, 1.0


def scheme_of(url: str) -> str | None:
    """Return the scheme of a URL, None for a local path. Raises: DataFolderError for one that is not read."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return None
    if scheme.lower() not in SCHEMES:
        raise DataFolderError(f"got {url!r} with the scheme {scheme!r}; expected a local path, or one of {', '.join(SCHEMES)}")
    return scheme.lower()


def download(url: str, path: Path) -> None:
    """Write a remote file to ``path``, with some attempts.

    Raises: DataFolderError if it is missing or cannot be reached.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _naming(url):
                _store_of(url).get_file(url, str(path))
            return
        except _Lasting:
            raise
        except DataFolderError:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(_PAUSE_S * 2**attempt)


def exists(url: str) -> bool:
    """Return True if a remote file is there. Raises: DataFolderError if the store cannot be reached."""
    with _naming(url):
        return bool(_store_of(url).exists(url))


def read_bytes(url: str) -> bytes:
    """Return the content of a small remote file. Raises: DataFolderError."""
    with _naming(url):
        content = _store_of(url).cat_file(url)
        assert isinstance(content, bytes)
        return content


def matching(pattern: str) -> list[str]:
    """Return the remote files that match a pattern, sorted. Raises: DataFolderError."""
    scheme = pattern.partition("://")[0].lower()
    if scheme.startswith("http"):
        raise DataFolderError(f"got {pattern!r}; a web server cannot be searched: expected a range such as {{000..012}}.tar")
    with _naming(pattern):
        return [f"{scheme}://{name}" for name in sorted(map(str, _store_of(pattern).glob(pattern)))]


def open_remote(url: str) -> IO[bytes]:
    """Open a remote file for reading in pieces. Raises: DataFolderError."""
    with _naming(url):
        return cast("IO[bytes]", _store_of(url).open(url, "rb"))


class _Lasting(DataFolderError):
    """Another attempt would end the same way."""


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Raises: DataFolderError, MissingPackageError."""
    try:
        yield
    except FileNotFoundError as error:
        raise _Lasting(f"cannot read {url!r}: no such file; check the address, or make the file again") from error
    except PermissionError as error:
        raise _Lasting(f"cannot read {url!r}: no permission; check the credentials of this machine and the file's access") from error
    except ImportError as error:
        raise _missing_package(url, error) from error
    except JointNetError:
        raise
    except Exception as error:  # each store raises its own kinds: aiohttp's, botocore's, Google's
        status = getattr(error, "status", None)
        kind = _Lasting if status in (401, 403, 404, 410) else DataFolderError
        raise kind(f"cannot read {url!r}: {reason(error)}; check the address, the network and the credentials") from error


def _missing_package(url: str, error: ImportError) -> MissingPackageError:
    package = _PACKAGES.get(url.partition("://")[0].lower(), "fsspec[http]")
    return MissingPackageError(f"{url!r} needs {package} to be read ({error}); install it: pip install 'jointnet[data]' {package}")


def _store_of(url: str) -> AbstractFileSystem:
    return _filesystem(os.getpid(), url.partition("://")[0].lower())


@lru_cache(maxsize=8)
def _filesystem(_process: int, scheme: str) -> AbstractFileSystem:
    """Return a file system of this process: a forked one must not share connections and event loops with its parent."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    return fsspec.filesystem(scheme, **options)
