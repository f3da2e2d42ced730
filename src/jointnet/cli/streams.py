"""Printing where the terminal cannot show all letters, where nobody reads any more, and where there is no terminal at all."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CLOSED_PIPE = 141
"""Exit code when the reader of stdout went away, as shells have it for SIGPIPE."""

_ERRORS = "jointnet"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give bytes of file names back as they are, and escape letters that the terminal does not have."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    parts = [bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("ascii", "backslashreplace") for c in text]
    return b"".join(parts), error.end


@contextmanager
def usable_streams() -> Iterator[None]:
    """Let every letter be printed; streams that are closed swallow what is printed."""
    codecs.register_error(_ERRORS, _bytes_or_escapes)
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    changed = []
    for name in streams:
        stream = streams[name]
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process prints
        elif hasattr(stream, "reconfigure"):
            changed.append((stream, stream.errors))
            stream.reconfigure(errors=_ERRORS)
    try:
        yield
    finally:
        for stream, errors in changed:
            stream.reconfigure(errors=errors)
        for name, stream in streams.items():
            if stream is not None:
                setattr(sys, name, stream)


def drop_stdout() -> None:
    """Let nothing more be written to stdout, not even what Python still holds when it ends."""
    try:
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)
    except (OSError, ValueError):
        return
