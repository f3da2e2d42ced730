"""Warnings that wait until a command's work has begun, so that what is refused before gets one line: its error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jointnet.errors import JointNetError

_held: list[str] = []
_is_holding = False


def show(line: str) -> None:
    """Print a line on stderr, or keep it where warnings are held."""
    if _is_holding:
        _held.append(line)
    else:
        print(line, file=sys.stderr)


@contextmanager
def holding() -> Iterator[None]:
    """Hold warnings until ``release`` or the end; drop them at an error of the user's input."""
    global _is_holding
    _is_holding = True
    try:
        yield
    except JointNetError:
        _held.clear()
        raise
    finally:
        release()


def release() -> None:
    """Print what was held, and from now on each warning as it comes."""
    global _is_holding
    _is_holding = False
    while _held:
        print(_held.pop(0), file=sys.stderr)
