"""One HTTP request to an address that was checked, within a time limit."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any

from jointnet.data.build.addresses import Resolve, is_public
from jointnet.errors import BadSampleError


@dataclass(frozen=True, kw_only=True)
class TimeLimits:
    """Seconds: to connect (with the TLS handshake), without a byte, and for a request with its redirects."""

    connect_s: float = 5.0
    read_s: float = 10.0
    total_s: float = 60.0


class CheckedConnection(http.client.HTTPConnection):
    """An HTTP connection to the very address that was checked, so that no second answer of a name server counts.

    Host header and TLS name are the host's. Proxies of the environment are not used.
    """

    def __init__(self, host: str, port: int, *, resolve: Resolve, allow_private: bool, limits: TimeLimits, deadline: float) -> None:
        super().__init__(host, port)
        self._resolve, self._allow_private = resolve, allow_private
        self._limits, self._deadline = limits, deadline
        self._tls: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Speak HTTPS."""
        self._tls, self.default_port = context, http.client.HTTPS_PORT

    def connect(self) -> None:
        """Resolve, check, and connect to one of the addresses. Raises: BadSampleError for an address that is not public; OSError."""
        addresses = self._resolve(self.host, self.port)
        refused = [] if self._allow_private else [address for address in addresses if not is_public(address)]
        if refused:
            raise BadSampleError(f"got host {self.host!r} at {refused[0]}, which is no public address; refused", "address not public")
        error: OSError = OSError(f"no address of {self.host!r}")
        for address in addresses:
            try:
                self._socket = socket.create_connection((address, self.port), self._connect_timeout())
                break
            except OSError as each:
                error = each
        if self._socket is None:
            raise error
        if self._tls is not None:
            self._socket.settimeout(self._connect_timeout())  # of the whole handshake
            self._socket = self._tls.wrap_socket(self._socket, server_hostname=self.host)
        self.sock: Any = _TimedSocket(self._socket, self._limits.read_s, self._deadline)

    def hang_up(self) -> None:
        """Close the socket; ``close``, which http.client calls itself, leaves it to the response that is still read."""
        self.close()
        if self._socket is not None:
            self._socket.close()

    def _connect_timeout(self) -> float:
        return _remaining(self._limits.connect_s, self._deadline)


class _TimedSocket:
    """What http.client needs of a socket; each read ends at the deadline, so that a slow drip does not."""

    def __init__(self, socket_: socket.socket, read_s: float, deadline: float) -> None:
        self._socket, self._read_s, self._deadline = socket_, read_s, deadline

    def sendall(self, content: bytes) -> None:
        self._socket.settimeout(_remaining(self._read_s, self._deadline))
        self._socket.sendall(content)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._socket, self._read_s, self._deadline))

    def close(self) -> None:
        """Nothing: see CheckedConnection.hang_up."""


class _TimedReader(io.RawIOBase):
    def __init__(self, socket_: socket.socket, read_s: float, deadline: float) -> None:
        self._socket, self._read_s, self._deadline = socket_, read_s, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_remaining(self._read_s, self._deadline))
        return self._socket.recv_into(buffer)


def _remaining(limit_s: float, deadline: float) -> float:
    """Raises: TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is up")
    return min(limit_s, left)
