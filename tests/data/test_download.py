"""What is downloaded, from a server that does all that servers do wrong; what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jointnet.data.build.addresses import is_public
from jointnet.data.build.connection import TimeLimits
from jointnet.data.build.download import Downloader, DownloadSettings
from jointnet.data.build.hosts import Hosts
from jointnet.errors import BadSampleError
from tests.data.web import Pictures, serving_pictures, smooth

SETTINGS = DownloadSettings(
    allow_private=True,
    limits=TimeLimits(connect_s=1, read_s=0.3, total_s=1),
    max_bytes=200_000,
    rate=1000,
    attempts=2,
    pause_s=0.01,
)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, type[Pictures]]]:
    with serving_pictures() as found:
        yield found


def reason(downloader: Downloader, url: str) -> str:
    with pytest.raises(BadSampleError) as caught:
        downloader.get(url)
    return caught.value.reason


@pytest.mark.parametrize("path", ["good/3", "moved/3", "good/3?a=b c&d=ü", "busy"])
def test_pictures_come_as_they_are(server: tuple[str, type[Pictures]], path: str) -> None:
    settings = replace(SETTINGS, limits=TimeLimits(connect_s=1, read_s=1, total_s=3))
    assert Downloader(settings).get(f"{server[0]}/{path}") == smooth(3)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gone", "HTTP 404"),
        ("down", "HTTP 500"),
        ("slow", "timed out"),
        ("silent", "timed out"),
        ("page", "content type of no picture"),
        ("cut", "connection cut"),
        ("large", "too many bytes"),
        ("loop", "too many redirects"),
        ("file", "scheme not http or https"),
    ],
)
def test_what_cannot_be_had_is_a_reason(server: tuple[str, type[Pictures]], path: str, expected: str) -> None:
    start = time.monotonic()
    assert reason(Downloader(SETTINGS), f"{server[0]}/{path}") == expected
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://host/a.jpg", "scheme not http or https"),
        ("file:///etc/passwd", "scheme not http or https"),
        ("a.jpg", "unusable address"),
        ("http://", "unusable address"),
        ("http://user:word@host/a.jpg", "unusable address"),
        ("http://host:99999/a.jpg", "unusable address"),
        ("http://[::1/a.jpg", "unusable address"),
        ("http://a b/c.jpg", "unusable address"),
        ("http://no-such-host.invalid/a.jpg", "no such host"),
    ],
)
def test_addresses_that_are_none(url: str, expected: str) -> None:
    def unknown(host: str, port: int) -> list[str]:
        import socket

        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert reason(Downloader(SETTINGS, resolve=unknown), url) == expected


def test_a_port_that_is_closed_is_tried_again() -> None:
    with serving_pictures() as (address, _):
        pass
    assert reason(Downloader(SETTINGS), f"{address}/good/1") == "connection failed"


def test_only_what_may_change_is_tried_again(server: tuple[str, type[Pictures]]) -> None:
    address, handler = server
    for path in ("/down", "/absent"):
        handler.requests[path] = 0
        reason(Downloader(replace(SETTINGS, attempts=3)), address + path)
    assert (handler.requests["/down"], handler.requests["/absent"]) == (3, 1)


def test_a_host_gets_the_time_that_it_asks_for(server: tuple[str, type[Pictures]]) -> None:
    address, handler = server
    handler.requests["/busy"], handler.times["/busy"] = 0, []
    Downloader(replace(SETTINGS, limits=TimeLimits(total_s=3))).get(f"{address}/busy")
    first, second = handler.times["/busy"]
    assert second - first >= 0.95


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_is_refused_under_every_name(server: tuple[str, type[Pictures]], host: str) -> None:
    address, handler = server
    before = handler.requests.total()
    port = address.rpartition(":")[2]
    assert reason(Downloader(replace(SETTINGS, allow_private=False)), f"http://{host}:{port}/good/1") in (
        "address not public",
        "no such host",
    )
    assert handler.requests.total() == before


def test_a_redirect_to_a_private_address_is_refused(server: tuple[str, type[Pictures]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host is taken for a public one."""
    from jointnet.data.build import connection

    address, handler = server
    port = address.rpartition(":")[2]
    monkeypatch.setattr(connection, "is_public", lambda found: found == "127.0.0.1" or is_public(found))
    downloader = Downloader(replace(SETTINGS, allow_private=False))
    assert reason(downloader, f"http://127.0.0.1:{port}/private") == "address not public"
    monkeypatch.setattr(connection, "is_public", lambda _: False)
    before = handler.requests["/good/1"]
    assert reason(downloader, f"http://127.0.0.1:{port}/local") == "address not public"
    assert handler.requests["/good/1"] == before


def test_the_address_that_was_checked_is_the_one_connected_to(server: tuple[str, type[Pictures]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers a public address first and a private one next is asked once a connection."""
    from jointnet.data.build import connection

    answers = [["203.0.114.7"], ["127.0.0.1"]]
    asked: list[str] = []
    connected: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    def connect(place: tuple[str, int], timeout: float) -> None:
        connected.append(place[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(connection.socket, "create_connection", connect)
    downloader = Downloader(replace(SETTINGS, allow_private=False, attempts=1), resolve=resolve)
    assert reason(downloader, "http://rebinding.test/a.jpg") == "connection failed"
    assert (asked, connected) == (["rebinding.test"], ["203.0.114.7"])
    assert reason(downloader, "http://rebinding.test/a.jpg") == "address not public"
    assert connected == ["203.0.114.7"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("no address", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


# Rates


def test_a_host_is_asked_no_more_often_than_its_rate(server: tuple[str, type[Pictures]]) -> None:
    downloader = Downloader(replace(SETTINGS, rate=20))
    start = time.monotonic()
    threads = [threading.Thread(target=downloader.get, args=(f"{server[0]}/good/{i}",)) for i in range(11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 10 / 20


def test_a_host_that_fails_is_given_up_and_others_are_not() -> None:
    hosts = Hosts(rate=1000, pause_s=10, longest_s=0.5)
    hosts.wait("good")
    hosts.has_failed("bad")
    hosts.has_failed("bad")
    for _ in range(100):
        with hosts._lock:
            hosts._of("bad").next_s += 0.1
    with pytest.raises(BadSampleError, match="again and again"):
        hosts.wait("bad")
    start = time.monotonic()
    hosts.wait("good")
    assert time.monotonic() - start < 0.3


def test_a_queue_at_a_good_host_drops_nothing() -> None:
    hosts = Hosts(rate=20, pause_s=1, longest_s=0.01)
    for _ in range(4):
        hosts.wait("good")
