"""The files of one result: all of them or those of the earlier one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from jointnet.errors import OutputError
from jointnet.files.result_set import prepare_folder, write_result_set


@dataclass(frozen=True)
class Text:
    content: str

    def write(self, path: Path) -> None:
        path.write_text(self.content)


class FullDisk:
    """Content for which there is no space."""

    def write(self, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_result_lists_its_files_and_comes_last(tmp_path: Path) -> None:
    paths = write_result_set(tmp_path / "new", {"b.txt": Text("b"), "a.txt": Text("a")}, {"prompt": "ein Würfel"})
    assert [path.name for path in paths] == ["b.txt", "a.txt", "result.json"]
    assert json.loads(paths[-1].read_text(encoding="utf-8")) == {"prompt": "ein Würfel", "files": ["a.txt", "b.txt"]}
    assert "Würfel" in paths[-1].read_text(encoding="utf-8")


def test_files_of_an_earlier_result_go_and_others_stay(tmp_path: Path) -> None:
    write_result_set(tmp_path, {"a.txt": Text("a"), "old.txt": Text("old")}, {})
    (tmp_path / "notes.txt").write_text("mine")
    write_result_set(tmp_path, {"a.txt": Text("new")}, {})
    assert set(contents(tmp_path)) == {"a.txt", "notes.txt", "result.json"}
    assert contents(tmp_path)["a.txt"] == "new"


def test_a_write_that_fails_leaves_the_earlier_result_whole(tmp_path: Path) -> None:
    write_result_set(tmp_path, {"a.txt": Text("a"), "b.txt": Text("b")}, {"seed": 1})
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="No space left on device; free space"):
        write_result_set(tmp_path, {"a.txt": Text("new"), "c.txt": FullDisk()}, {"seed": 2})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["[]", "{", '{"files": 3}', '{"files": ["../../secret.txt", "folder/a.txt", 3]}'])
def test_a_result_that_is_not_ours_removes_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    folder = tmp_path / "one" / "two"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder" / "a.txt").write_text("mine")
    (folder / "result.json").write_text(content)
    write_result_set(folder, {"a.txt": Text("a")}, {})
    assert (tmp_path / "secret.txt").exists()
    assert (folder / "folder" / "a.txt").exists()


def test_a_folder_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to output folder"):
        prepare_folder(tmp_path / "file")
    assert list(prepare_folder(tmp_path / "new").iterdir()) == []
