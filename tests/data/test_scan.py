"""Names of many files are sorted out in a moment, and captions of metadata belong to their pictures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from jointnet.data.folder import FolderSource
from jointnet.data.packed import PackedList, open_packed, pack
from jointnet.data.scan import scan
from jointnet.errors import DataFolderError, DataFolderWarning, OutputError
from tests.data.folders import captions, ids, three_samples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures; only the first has a caption file, of two lines."""
    folder = three_samples(tmp_path / "data")
    for name in "12":
        (folder / f"{name}.txt").unlink()
    return folder


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_samples_do_not_depend_on_the_order_of_the_names(tmp_path: Path) -> None:
    tails = (".jpg", ".depth.npy", ".txt", ".normal.png")
    names = [f"{place}{i:03d}{tail}" for place in ("", "b/", "a/c/") for i in range(50) for tail in tails]
    for order, folder in enumerate((tmp_path / "one", tmp_path / "two")):
        for name in np.random.default_rng(order).permutation(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    found = [list(scan(tmp_path / name).samples) for name in ("one", "two")]
    assert found[0] == found[1]
    assert [sample.picture for sample in found[0]] == sorted((n for n in names if n.endswith(".jpg")), key=lambda name: name.split("/"))
    for sample in found[0]:
        assert [sample.file(kind) for kind in ("captions", "depth", "normal")] == [
            sample.picture.replace(".jpg", tail) for tail in (".txt", ".depth.npy", ".normal.png")
        ]


def test_names_of_many_pictures_are_sorted_out_in_a_moment(tmp_path: Path) -> None:
    for i in range(2000):
        for suffix in (".jpg", ".txt", ".depth.npy"):
            (tmp_path / f"{i:06d}{suffix}").touch()
    before = time.perf_counter()
    assert len(FolderSource(tmp_path)) == 2000
    assert time.perf_counter() - before < 10  # about 0.05 s on an idle machine


def test_a_list_of_samples_is_packed_on_disk_and_stays_while_it_is_the_same(data: Path, tmp_path: Path) -> None:
    index = tmp_path / "run" / "files.sqlite"
    assert len(FolderSource(data, index=index)) == 3
    (kept,) = index.parent.iterdir()
    written = kept.stat().st_mtime_ns
    assert len(FolderSource(data, index=index)) == 3
    assert kept.stat().st_mtime_ns == written
    assert kept.stat().st_size < 200
    (data / "1.png").unlink()
    (data / "1.depth.npy").unlink()
    assert len(FolderSource(data, index=index)) == 2
    assert list(index.parent.iterdir()) == [kept]


def test_a_packed_list_holds_any_bytes(tmp_path: Path) -> None:
    items = [b"", b"a\0b", b"\xff" * 1000, b""]
    for packed in (pack(items, tmp_path / "list"), pack(items, None), open_packed(tmp_path / "list")):
        assert list(packed) == [packed[row] for row in range(len(packed))] == items
        with pytest.raises(IndexError):
            packed[4]
    assert list(pack([], None)) == []
    assert isinstance(pack([], tmp_path / "none"), PackedList)


def test_a_list_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match=r"run/files\.samples"):
        len(FolderSource(data, index=tmp_path / "run" / "files.sqlite"))
    with pytest.raises(DataFolderError, match="start again"):
        open_packed(tmp_path / "run")


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_captions_stand_in_json_lines(column: str, data: Path) -> None:
    rows = [{"file_name": "1.png", column: " a cone "}, {"file_name": "2.png", column: ["a ball", "a red ball"]}]
    write_rows(data / "metadata.jsonl", *rows)
    assert captions(FolderSource(data)) == [("a red ball", "a ball"), ("a cone",), ("a ball", "a red ball")]


def test_captions_stand_in_csv(data: Path) -> None:
    (data / "metadata.csv").write_bytes(b'\xef\xbb\xbftext,label,file_name\r\n"a cone, red",3,1.png\r\n"two\nlines",4,2.png\r\n\r\n')
    assert captions(FolderSource(data))[1:] == [("a cone, red",), ("two\nlines",)]


def test_a_caption_file_wins_over_metadata_of_which_all_rows_count(data: Path) -> None:
    rows = [("0.png", "not this"), ("1.png", "a cone"), ("2.png", ""), ("1.png", "a red cone"), ("1.png", "a cone"), ("1.png", "")]
    write_rows(data / "metadata.jsonl", *({"file_name": name, "text": text} for name, text in rows))
    assert captions(FolderSource(data)) == [("a red ball", "a ball"), ("a cone", "a red cone"), ("",)]


def test_sub_folders_may_have_metadata_and_be_named_in_that_above(data: Path) -> None:
    (data / "a" / "b").mkdir(parents=True)
    for place in ("a", "a/b"):
        (data / place / "0.png").write_bytes((data / "0.png").read_bytes())
    write_rows(data / "a" / "metadata.jsonl", {"file_name": "0.png", "text": "in a"}, {"file_name": "b\\0.png", "text": "in b"})
    (data / "metadata.csv").write_text("file_name,text\n1.png,a\n2.png,b\n./a/b/0.png,from above\n")
    assert captions(FolderSource(data))[3:] == [("in a",), ("from above", "in b")]


def test_rows_of_files_that_are_not_there_are_counted_and_warned_of(data: Path) -> None:
    write_rows(data / "metadata.jsonl", *({"file_name": name, "text": "a"} for name in ("9.png", "1.jpg", "../0.png", "1.png", "a/1.png")))
    with pytest.warns(DataFolderWarning, match=r"rows of metadata without a picture: 4 \(\.\./0\.png, 1\.jpg, 9\.png, \.\.\.\)"):
        assert ids(FolderSource(data)) == ["0.png", "1.png", "2.png"]


def test_a_picture_whose_text_is_null_has_no_caption(data: Path) -> None:
    write_rows(data / "metadata.jsonl", {"file_name": "1.png", "text": None}, {"file_name": "2.png", "label": 3})
    source = FolderSource(data)
    assert [source._samples[row].texts for row in range(3)] == [None, None, None]


def test_a_picture_named_like_a_map_is_one_if_metadata_say_so(tmp_path: Path, data: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "holiday.depth.png").write_bytes((data / "0.png").read_bytes())
    write_rows(tmp_path / "maps" / "metadata.jsonl", {"file_name": "holiday.depth.png", "text": "a holiday"})
    assert captions(FolderSource(tmp_path / "maps")) == [("a holiday",)]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("jsonl", b'{"file_name": "1.png", "text": "a"}\n\n{"file_name": \n', "got line 3 of metadata.jsonl that is no JSON"),
    "no object": ("jsonl", b"[1]\n", "got line 1 of metadata.jsonl that is no JSON object"),
    "no file name": ("jsonl", b'{"text": "a"}\n', "got file_name None in line 1 of metadata.jsonl"),
    "half a character": ("jsonl", b'{"file_name": "1.png", "text": "\\ud800"}\n', "in line 1 of metadata.jsonl"),
    "a number": ("jsonl", b'{"file_name": "1.png", "text": 3}\n', "got captions 3 in line 1 of metadata.jsonl"),
    "latin-1": ("jsonl", b'{"file_name": "1.png"}\n{"text": "W\xfcrfel"}\n', "got line 2 of metadata.jsonl that is not UTF-8"),
    "latin-1 csv": ("csv", b"file_name,text\n1.png,W\xfcrfel\n", "got line 2 of metadata.csv that is not UTF-8"),
    "UTF-16": ("csv", "file_name,text\n1.png,a\n".encode("utf-16"), "got line 1 of metadata.csv that is not UTF-8"),
    "semicolons": (
        "csv",
        b"file_name;text\n1.png;a\n",
        "got columns file_name;text in line 1 of metadata.csv; expected file_name and text",
    ),
    "no columns": ("csv", b"", "got columns none in line 1 of metadata.csv"),
    "a comma": ("csv", b"file_name,text\n1.png,a red, round ball\n", "got 3 values in line 2 of metadata.csv; expected 2"),
    "an open quote": ("csv", b'file_name,text\n1.png,"a ball\n2.png,b\n', "line 3 of metadata.csv that is no CSV"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_metadata_are_one_line_that_names_file_and_line(what: str, data: Path) -> None:
    suffix, content, words = BROKEN[what]
    (data / f"metadata.{suffix}").write_bytes(content)
    with pytest.raises(DataFolderError) as error:
        len(FolderSource(data))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_captions_of_metadata_are_part_of_the_contents(data: Path) -> None:
    def contents() -> dict[str, str]:
        return FolderSource(data).contents(("rgb",))

    write_rows(data / "metadata.jsonl", {"file_name": "1.png", "text": "a"}, {"file_name": "2.png", "text": "b"})
    first = contents()
    (data / "metadata.jsonl").rename(data / "metadata.old")
    (data / "metadata.csv").write_text("file_name,text\n2.png,b\n1.png,a\n")
    assert contents() == first
    (data / "metadata.csv").write_text("file_name,text\n2.png,a\n1.png,a\n")
    assert {kind for kind in first if contents()[kind] != first[kind]} == {"captions"}


def test_a_folder_that_cannot_be_listed_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataFolderError, match=r"cannot list data folder .*Permission denied"):
        scan(data)
