"""Downloads of pictures from links that strangers made: limits of time, size and addresses; what cannot be had is a reason to count."""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from jointnet.data.build.addresses import Resolve, resolve
from jointnet.data.build.connection import CheckedConnection, TimeLimits
from jointnet.data.build.hosts import Hosts
from jointnet.errors import BadSampleError

_SCHEMES = ("http", "https")
_REDIRECTS, _LATER = (301, 302, 303, 307, 308), (408, 425, 429, 500, 502, 503, 504)
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
"""Content types that may be pictures; none is one too."""

_AGENT = "jointnet-data/0.1"
_SAFE_SIGNS = "%/:=&?~+!$,;'@()*[]|"
_PIECE = 2**16


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """How links are followed; what the shards hold does not depend on it, but for links that fail.

    Attributes:
        allow_private: also addresses of this machine and its network.
        rate: requests a second to one host, of all workers together.
        attempts: at a link whose host is busy or cannot be reached.
        pause_s: before the second attempt; then twice as long each.
        threads: downloads at once, of one worker.
    """

    allow_private: bool = False
    limits: TimeLimits = field(default_factory=TimeLimits)
    max_bytes: int = 50 * 2**20
    max_redirects: int = 5
    rate: float = 10.0
    attempts: int = 3
    pause_s: float = 1.0
    threads: int = 32


class Transient(BadSampleError):
    """A link that may work later.

    Attributes:
        retry_after_s: as the host asks for.
    """

    def __init__(self, message: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s


class Downloader:
    """Gets pictures; threads may share it.

    Args:
        share: of the settings' rate; 1 / N for each of N workers.
        context: of TLS; the system's by default.
    """

    def __init__(
        self, settings: DownloadSettings, *, share: float = 1.0, resolve: Resolve = resolve, context: ssl.SSLContext | None = None
    ) -> None:
        self._settings, self._resolve = settings, resolve
        self._context = ssl.create_default_context() if context is None else context
        self._hosts = Hosts(settings.rate * share, settings.pause_s, settings.limits.total_s)

    def get(self, url: str) -> bytes:
        """Return what a link leads to. Raises: BadSampleError, whose reason says why there is nothing."""
        attempt = 1
        while True:
            try:
                return self._follow(url)
            except Transient as error:
                if attempt >= self._settings.attempts or (error.retry_after_s or 0) > self._settings.limits.total_s:
                    raise
                attempt += 1

    def _follow(self, url: str) -> bytes:
        """Raises: BadSampleError."""
        deadline = None
        for _ in range(self._settings.max_redirects + 1):
            parts = _parts(url)
            host = str(parts.hostname)
            self._hosts.wait(host)
            if deadline is None:
                deadline = time.monotonic() + self._settings.limits.total_s
            try:
                answer = self._request(url, parts, deadline)
            except Transient as error:
                self._hosts.has_failed(host, error.retry_after_s)
                raise
            self._hosts.has_answered(host)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise BadSampleError(f"got more than {self._settings.max_redirects} redirects at {url!r}", "too many redirects")

    def _request(self, url: str, parts: SplitResult, deadline: float) -> bytes | str:
        """Return the content, or where it is instead. Raises: BadSampleError."""
        is_https = parts.scheme == "https"
        connection = CheckedConnection(
            _ascii_host(parts),
            parts.port or (http.client.HTTPS_PORT if is_https else http.client.HTTP_PORT),
            resolve=self._resolve,
            allow_private=self._settings.allow_private,
            limits=self._settings.limits,
            deadline=deadline,
        )
        if is_https:
            connection.use_tls(self._context)
        try:
            target = quote(parts.path or "/", safe=_SAFE_SIGNS) + (f"?{quote(parts.query, safe=_SAFE_SIGNS)}" if parts.query else "")
            headers = {"User-Agent": _AGENT, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                return self._content(url, response)
        except TimeoutError as error:
            raise Transient(f"got no answer in time from {url!r}", "timed out") from error
        except ssl.SSLCertVerificationError as error:
            raise BadSampleError(f"got a certificate at {url!r} that is refused: {error.verify_message}", "certificate refused") from error
        except OSError as error:
            kind, what = (Transient, "connection failed") if not _is_unknown_host(error) else (BadSampleError, "no such host")
            raise kind(f"cannot reach {url!r}: {error}", what) from error
        except http.client.IncompleteRead as error:
            raise Transient(f"got {url!r} cut off", "connection cut") from error
        except (http.client.HTTPException, ValueError) as error:
            if isinstance(error, BadSampleError):
                raise
            raise BadSampleError(f"got an answer from {url!r} that is no HTTP: {error!r}", "broken answer") from error
        finally:
            connection.hang_up()

    def _content(self, url: str, response: http.client.HTTPResponse) -> bytes | str:
        """Raises: BadSampleError; what reading raises."""
        status, location = response.status, response.headers.get("Location")
        if status in _REDIRECTS and location:
            return location
        if status in _LATER:
            raise Transient(f"got HTTP {status} from {url!r}", f"HTTP {status}", _seconds(response.headers.get("Retry-After")))
        if status != http.client.OK:
            raise BadSampleError(f"got HTTP {status} from {url!r}", f"HTTP {status}")
        type_ = response.headers.get("Content-Type", "image/").strip().lower()
        if not type_.startswith(_TYPES):
            raise BadSampleError(f"got content type {type_[:60]!r} from {url!r}; expected a picture", "content type of no picture")
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise BadSampleError(f"got a compressed answer from {url!r}, which was not asked for", "broken answer")
        return _body(url, response, self._settings.max_bytes)


def _body(url: str, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Raises: BadSampleError if it is too long or cut off; what reading raises."""
    too_long = BadSampleError(f"got more than {max_bytes} bytes from {url!r}", "too many bytes")
    expected = response.length
    if expected is not None and expected > max_bytes:
        raise too_long
    content = bytearray()
    while piece := response.read(_PIECE):
        content += piece
        if len(content) > max_bytes:
            raise too_long
    if expected is not None and len(content) < expected:
        raise Transient(f"got {len(content)} of {expected} bytes from {url!r}", "connection cut")
    return bytes(content)


def _parts(url: str) -> SplitResult:
    """Raises: BadSampleError for what is no address of the web."""
    try:
        parts = urlsplit(url.strip())
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, has_host = SplitResult("", "", "", "", ""), False
    if parts.scheme and parts.scheme not in _SCHEMES:
        raise BadSampleError(f"got {url!r}; expected http or https", "scheme not http or https")
    if not parts.scheme or not has_host or parts.username is not None:
        raise BadSampleError(f"got {url!r}; expected an address such as https://host/picture.jpg", "unusable address")
    return parts


def _ascii_host(parts: SplitResult) -> str:
    """Raises: BadSampleError."""
    host = str(parts.hostname)
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadSampleError(f"got host {host!r}, which is no name", "unusable address") from error
    if any(sign <= " " or sign == "\x7f" for sign in name):
        raise BadSampleError(f"got host {host!r}, which is no name", "unusable address")
    return name


def _is_unknown_host(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After, seconds or a date -> seconds; None for neither."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
