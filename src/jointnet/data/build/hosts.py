"""How often each host is asked: a rate limit, and pauses after failures."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from jointnet.errors import BadSampleError

_NUM_REMEMBERED = 50_000


@dataclass
class _Host:
    next_s: float = 0.0
    pause_s: float = 0.0


class Hosts:
    """Gives threads their turn at each host.

    Args:
        rate: requests a second to one host.
        pause_s: after a first failure; it doubles with each further one, and ends with a success.
        longest_s: who would have to wait longer for a host that fails gives up.
    """

    def __init__(self, rate: float, pause_s: float, longest_s: float) -> None:
        self._interval_s, self._first_pause_s, self._longest_s = 1 / rate, pause_s, longest_s
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def wait(self, name: str) -> None:
        """Wait for a turn. Raises: BadSampleError if the host fails and it would take too long."""
        now = time.monotonic()
        with self._lock:
            host = self._of(name)
            turn = max(now, host.next_s)
            if host.pause_s and turn - now > self._longest_s:
                raise BadSampleError(f"got host {name!r}, which fails again and again; left out", "host busy")
            host.next_s = turn + self._interval_s
        time.sleep(turn - now)

    def has_answered(self, name: str) -> None:
        """End the pauses."""
        with self._lock:
            self._of(name).pause_s = 0.0

    def has_failed(self, name: str, retry_after_s: float | None = None) -> None:
        """Ask the host no more for a while, or as long as it says, at most ``longest_s``."""
        with self._lock:
            host = self._of(name)
            host.pause_s = min(2 * host.pause_s or self._first_pause_s, self._longest_s)
            pause_s = min(retry_after_s, self._longest_s) if retry_after_s is not None else host.pause_s * random.uniform(0.75, 1)
            host.next_s = max(host.next_s, time.monotonic() + pause_s)

    def _of(self, name: str) -> _Host:
        host = self._hosts.setdefault(name, _Host())
        self._hosts.move_to_end(name)
        if len(self._hosts) > _NUM_REMEMBERED:
            self._hosts.popitem(last=False)
        return host
