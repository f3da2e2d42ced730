"""A file is known as ours, and as unchanged since it was written, by a mark in its content."""

from __future__ import annotations

import os
from pathlib import Path

from jointnet.files.marks import MARK, is_unchanged, marked


def test_a_marked_file_is_ours_until_a_byte_changes(tmp_path: Path) -> None:
    content, path = marked(b"ply\ncomment " + MARK + b"\nvalues"), tmp_path / "a.ply"
    path.write_bytes(content)
    assert is_unchanged(path)
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        assert not is_unchanged(path), index
    for changed in (content + b"x", content[:-1], b"", b"x" + content):
        path.write_bytes(changed)
        assert not is_unchanged(path)


def test_what_is_no_file_is_not_ours(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("pipe", "link", "none", "."):
        assert not is_unchanged(tmp_path / name)


def test_a_link_to_a_file_of_ours_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(marked(MARK))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert not is_unchanged(tmp_path / "link")
