"""Ctrl-C and SIGTERM: a run saves before it ends, with the exit code that shells expect (130, 143)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NOTICE = b"stopping after this step, with all saved; once more stops at once\n"


class StopRequest:
    """The signal that asked to stop, if one did."""

    signal: int | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Keep the signal for the end of the step; the second one ends the run where it is."""
        if self.signal is not None:
            leave(number)
        self.signal = number
        os.write(2, _NOTICE)  # print may be what was interrupted

    def leave_if_asked(self) -> None:
        """Raises: KeyboardInterrupt, SystemExit."""
        if self.signal is not None:
            leave(self.signal)


def leave(number: int, _frame: FrameType | None = None) -> None:
    """End the program as the signal would, but through all ``finally`` blocks. Raises: KeyboardInterrupt, SystemExit."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Receive Ctrl-C and SIGTERM in the returned request instead of ending at once."""
    request = StopRequest()
    with _handlers({signal.SIGINT: request.receive, signal.SIGTERM: request.receive}):
        yield request


@contextmanager
def tidy_termination() -> Iterator[None]:
    """Let SIGTERM run ``finally`` blocks, as Ctrl-C does: otherwise half-written files would stay."""
    with _handlers({signal.SIGTERM: leave}):
        yield


@contextmanager
def _handlers(wanted: dict[int, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    """Install handlers for the block. Signals that are ignored stay so; outside the main thread there are no handlers."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in wanted}
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, wanted[number])
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
