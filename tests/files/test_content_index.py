"""Hashes of files are kept while nothing says that a file has changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jointnet.errors import OutputError
from jointnet.files.content_index import ContentIndex
from jointnet.files.fingerprints import of_content


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are a moment old are read again in any case: let it be later."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in "abc":
        (tmp_path / "data" / name).write_text(name * 10)
    return tmp_path / "data"


def hashes(data: Path, index: Path | None) -> dict[str, str]:
    with ContentIndex(data, index) as contents:
        return {name: contents.hash_of(name) for name in sorted(os.listdir(data))}


def rows(index: Path) -> set[str]:
    database = sqlite3.connect(index)
    try:
        return {os.fsdecode(name) for (name,) in database.execute("SELECT name FROM files")}
    finally:
        database.close()


@pytest.mark.usefixtures("later")
def test_known_files_are_not_read_again_also_after_a_move(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "run" / "files.sqlite"
    first = hashes(data, index)
    assert first == {name: of_content(data / name) for name in "abc"}
    assert rows(index) == set("abc")
    written = index.stat().st_mtime_ns
    moved = data.rename(tmp_path / "moved")
    monkeypatch.setattr("jointnet.files.content_index.of_content", lambda path: pytest.fail(f"read {path}"))
    assert hashes(moved, index) == first
    assert index.stat().st_mtime_ns == written
    assert list(index.parent.iterdir()) == [index]


@pytest.mark.usefixtures("later")
def test_a_file_that_is_replaced_with_equal_size_and_date_is_noticed(data: Path, tmp_path: Path) -> None:
    first = hashes(data, tmp_path / "files.sqlite")
    facts = (data / "b").stat()
    (data / "b").write_text("B" * 10)
    os.utime(data / "b", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    second = hashes(data, tmp_path / "files.sqlite")
    assert {name for name in first if first[name] != second[name]} == {"b"}
    assert second == hashes(data, None)


def test_a_file_that_changed_a_moment_ago_is_not_trusted(data: Path, tmp_path: Path) -> None:
    hashes(data, tmp_path / "files.sqlite")
    assert not (tmp_path / "files.sqlite").exists()


def other_database(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (a)")
    database.commit()
    database.close()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text('{"a": [1, 2]}' * 1000),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path: path.write_bytes(path.read_bytes()[:2000] + b"\0" * (path.stat().st_size - 2000)),
    "noise": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xa5" * (path.stat().st_size - 4096)),
}


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_index_is_made_anew(what: str, data: Path, tmp_path: Path) -> None:
    index = tmp_path / "files.sqlite"
    for i in range(200):
        (data / f"{i:03d}").write_text(str(i))
    first = hashes(data, index)
    DAMAGE[what](index)
    assert hashes(data, index) == first
    assert hashes(data, index) == first
    assert rows(index) <= set(first)
    assert len(rows(index)) > 100


@pytest.mark.usefixtures("later")
def test_what_a_killed_process_had_saved_is_kept(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "files.sqlite"
    monkeypatch.setattr("jointnet.files.content_index._SECONDS_UNSAVED", -1.0)
    contents = ContentIndex(data, index)
    contents.hash_of("a")
    monkeypatch.setattr("jointnet.files.content_index._SECONDS_UNSAVED", 1e9)
    contents.hash_of("b")
    killed = tmp_path / "killed"
    killed.mkdir()
    for path in tmp_path.glob("files.sqlite*"):  # as they are when the process is killed
        shutil.copy(path, killed / path.name)
    contents.close()
    assert rows(killed / "files.sqlite") == {"a"}
    assert hashes(data, killed / "files.sqlite") == hashes(data, index)


@pytest.mark.usefixtures("later")
def test_an_index_has_the_mode_of_the_umask(data: Path, tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        hashes(data, tmp_path / "files.sqlite")
    finally:
        os.umask(before)
    assert (tmp_path / "files.sqlite").stat().st_mode & 0o777 == 0o664


@pytest.mark.usefixtures("later")
def test_an_index_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("/nowhere/run")
    with pytest.raises(OutputError, match="run is a link to '/nowhere/run'"):
        hashes(data, tmp_path / "run" / "files.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder"):
        hashes(data, tmp_path / "folder")


@pytest.mark.usefixtures("later")
def test_a_full_disk_is_named(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        for i in range(1000):
            (data / f"{i:03d}").write_text(str(i))
        with pytest.raises(OutputError, match="No space left on device; free space"):
            hashes(data, disk / "files.sqlite")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
