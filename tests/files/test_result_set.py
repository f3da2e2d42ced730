"""The files of one result: all of them or those of the earlier one, and nothing that is not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jointnet.errors import OutputError
from jointnet.files.fingerprints import of_content
from jointnet.files.result_facts import facts_beside, our_facts
from jointnet.files.result_set import check_result_set, file_ids, filling, prepare_folder, remove_numbered_sets, write_result_set

FACTS: dict[str, Any] = {"command": "predict", "meaning": {"depth": "disparity"}}


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


def files(*names: str) -> dict[str, Text]:
    return {name: Text(name) for name in names}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_result_lists_its_files_and_comes_last(tmp_path: Path) -> None:
    paths = write_result_set(tmp_path / "new", {"b.txt": Text("b"), "a.txt": Text("a")}, {"prompt": "ein Würfel"})
    assert [path.name for path in paths] == ["b.txt", "a.txt", "result.json"]
    facts = json.loads(paths[-1].read_text(encoding="utf-8"))
    assert set(facts.pop("contents")) == {"a.txt", "b.txt"}
    assert facts == {"program": "jointnet", "prompt": "ein Würfel", "files": ["a.txt", "b.txt"]}
    assert "Würfel" in paths[-1].read_text(encoding="utf-8")


def test_files_of_an_earlier_result_go_and_others_stay(tmp_path: Path) -> None:
    write_result_set(tmp_path, files("image.png", "depth.npy", "depth_uncertainty.npy", "own.txt"), FACTS)
    (tmp_path / "notes.txt").write_text("mine")
    write_result_set(tmp_path, {**files("depth.npy"), "image.png": Text("new")}, FACTS)
    assert set(contents(tmp_path)) == {"image.png", "depth.npy", "own.txt", "notes.txt", "result.json"}
    assert contents(tmp_path)["image.png"] == "new"


def test_files_of_another_commands_result_stay(tmp_path: Path) -> None:
    scene = {"command": "demo scene", "meaning": {"depth": "", "normal": ""}}
    write_result_set(tmp_path, files("image.png", "normal.npy"), scene)
    write_result_set(tmp_path, files("image.png"), FACTS)
    assert set(contents(tmp_path)) == {"image.png", "normal.npy", "result.json"}
    assert json.loads(contents(tmp_path)["result.json"])["kept"] == ["normal.npy"]
    assert facts_beside(tmp_path / "normal.npy") == {}
    write_result_set(tmp_path, {"normal.npy": Text("new")}, scene)
    assert contents(tmp_path)["normal.npy"] == "new"


def test_only_names_that_commands_write_are_removed(tmp_path: Path) -> None:
    listed = ["thesis.txt", "holiday.jpg", "holiday.png", "image.png", "depth.npy", "depthx.npy", "7.png"]
    for name in listed:
        (tmp_path / name).write_text("mine")
    (tmp_path / "result.json").write_text(json.dumps({"program": "jointnet", **FACTS, "files": listed}))
    write_result_set(tmp_path, files("depth_preview.png"), FACTS)
    assert set(contents(tmp_path)) == {
        "thesis.txt",
        "holiday.jpg",
        "holiday.png",
        "depthx.npy",
        "7.png",
        "depth_preview.png",
        "result.json",
    }


def test_a_write_that_fails_leaves_the_earlier_result_whole(tmp_path: Path) -> None:
    write_result_set(tmp_path, {"a.txt": Text("a"), "b.txt": Text("b")}, {"seed": 1})
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="No space left on device; free space"):
        write_result_set(tmp_path, {"a.txt": Text("new"), "c.txt": FullDisk()}, {"seed": 2})
    assert contents(tmp_path) == before


def test_folders_that_were_created_go_after_an_error_if_they_are_empty(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_result_set(tmp_path / "new" / "below", {"c.txt": FullDisk()}, {})
    assert list(tmp_path.iterdir()) == []

    def fail(folder: Path) -> None:
        with filling(folder):
            (folder.parent / "mine.txt").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "new" / "below")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]
    check_result_set(tmp_path / "other" / "below", ["a.txt"])
    assert not (tmp_path / "other").exists()


FOREIGN = [
    "[]",
    "{",
    "",
    "[" * 100_000,
    '{"files": 3}',
    '{"status": "ok", "files": ["holiday.jpg"]}',
    '{"files": ["../../secret.txt", "folder/a.txt", 3]}',
    '{"command": "predict", "versions": {"other": "1"}, "meaning": {}, "files": ["holiday.jpg"]}',
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_result_that_is_not_ours_is_neither_believed_nor_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    folder = tmp_path / "one" / "two"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder" / "a.txt").write_text("mine")
    (folder / "holiday.jpg").write_text("mine")
    (folder / "result.json").write_text(content)
    assert our_facts(folder / "result.json") == {}
    for act in (lambda: check_result_set(folder, ["a.txt"]), lambda: write_result_set(folder, files("a.txt"), FACTS)):
        with pytest.raises(OutputError, match=r"with a result\.json that is not ours; choose another"):
            act()
    assert (tmp_path / "secret.txt").exists()
    assert (folder / "folder" / "a.txt").exists()
    assert {p.name for p in folder.iterdir()} == {"folder", "holiday.jpg", "result.json"}
    assert (folder / "result.json").read_text() == content


def test_a_file_that_no_result_lists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_text("mine")
    for act in (lambda: check_result_set(tmp_path, ["image.png"]), lambda: write_result_set(tmp_path, files("image.png"), FACTS)):
        with pytest.raises(OutputError, match=r"image\.png', which is not of an earlier result"):
            act()
    assert contents(tmp_path) == {"image.png": "mine"}


@pytest.mark.parametrize("link", ["itself", "hard", "symbolic", "folder"])
def test_an_input_is_not_replaced_under_whatever_path(link: str, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "photo.png"
    write_result_set(out, files("image.png"), FACTS)
    if link == "itself":
        source = out / ".." / "out" / "image.png"
    elif link == "folder":
        (tmp_path / "link").symlink_to(out)
        source = tmp_path / "link" / "image.png"
    else:
        source.write_text("mine")
        (out / "image.png").unlink()
        (os.link if link == "hard" else os.symlink)(source, out / "image.png")
    before = source.read_text()
    for act in (
        lambda: check_result_set(out, ["image.png"], file_ids([source])),
        lambda: write_result_set(out, {"image.png": Text("new")}, FACTS, file_ids([source])),
    ):
        with pytest.raises(OutputError, match="as an input, which the result would replace"):
            act()
    assert source.read_text() == before


def test_a_result_written_before_it_named_its_program_is_ours(tmp_path: Path) -> None:
    run = {"command": "predict", "meaning": {"depth": ""}, "versions": {"jointnet": "0.1.0"}, "files": ["image.png", "depth.npy"]}
    (tmp_path / "depth.npy").write_text("old")
    (tmp_path / "result.json").write_text(json.dumps(run))
    write_result_set(tmp_path, files("image.png"), FACTS)
    assert set(contents(tmp_path)) == {"image.png", "result.json"}
    scene = {"scene": 6, "projection": "pinhole", "depth_near_m": 1.5, "meaning": {"normal": ""}, "files": ["image.png", "normal.npy"]}
    (tmp_path / "normal.npy").write_text("old")
    (tmp_path / "result.json").write_text(json.dumps(scene))
    write_result_set(tmp_path, files("image.png"), {"command": "demo scene"})
    assert set(contents(tmp_path)) == {"image.png", "result.json"}


def test_a_result_says_something_of_its_own_files_only(tmp_path: Path) -> None:
    write_result_set(tmp_path, files("image.png"), {**FACTS, "span_deg": 90})
    assert facts_beside(tmp_path / "image.png")["span_deg"] == 90
    assert facts_beside(tmp_path / "photo.png") == {}
    assert facts_beside(tmp_path / "nowhere" / "image.png") == {}


def test_a_shorter_series_takes_the_place_of_a_longer_one(tmp_path: Path) -> None:
    for number in range(1, 5):
        write_result_set(
            tmp_path / str(number), files("image.png"), {**FACTS, "command": "generate", "numbered": {"number": number, "of": 4}}
        )
    write_result_set(tmp_path / "5", files("image.png"), {**FACTS, "command": "generate"})  # of its own
    write_result_set(tmp_path / "6", files("image.png"), {**FACTS, "numbered": {"number": 6, "of": 6}})  # of another command
    (tmp_path / "7").mkdir()
    (tmp_path / "4" / "notes.txt").write_text("mine")
    remove_numbered_sets(tmp_path, "generate", besides=["1", "2"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "4", "5", "6", "7"]
    assert [p.name for p in (tmp_path / "4").iterdir()] == ["notes.txt"]
    assert set(contents(tmp_path / "5")) == {"image.png", "result.json"}


def test_two_processes_in_one_folder_leave_one_whole_result(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from jointnet.files.result_set import write_result_set\n"
        "folder, word = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "class Word:\n"
        "    def write(self, path):\n"
        "        path.write_text(word)\n"
        "names = ['image.png', *(f'depth{end}' for end in ('.png', '.npy', '_preview.png'))]\n"
        "names += [] if word == 'a' else ['depth_uncertainty.npy']\n"
        "facts = {'command': 'predict', 'meaning': {'depth': ''}, 'word': word}\n"
        "for _ in range(15):\n"
        "    write_result_set(folder, {name: Word() for name in names}, facts)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), word]) for word in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    held = contents(tmp_path)
    facts = json.loads(held.pop("result.json"))
    assert set(held.values()) == {facts["word"]}
    assert sorted(held) == facts["files"]


def test_a_folder_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "dangling" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot write to output folder"):
            prepare_folder(place)
    assert list(prepare_folder(tmp_path / "new").iterdir()) == []


def test_a_result_knows_the_contents_of_its_files(tmp_path: Path) -> None:
    write_result_set(tmp_path, files("image.png", "depth.npy"), {"command": "demo scene"})
    write_result_set(tmp_path, {"image.png": Text("new")}, FACTS)
    facts = json.loads(contents(tmp_path)["result.json"])
    assert facts["kept"] == ["depth.npy"]
    assert facts["contents"] == {name: of_content(tmp_path / name) for name in ("depth.npy", "image.png")}


@pytest.mark.parametrize("change", ["content", "link", "folder", "pipe"])
def test_what_the_user_put_under_a_name_of_ours_is_not_replaced(change: str, tmp_path: Path) -> None:
    out, photo = tmp_path / "out", tmp_path / "photo.png"
    write_result_set(out, files("image.png", "depth.npy"), FACTS)
    photo.write_text("mine")
    (out / "image.png").unlink()
    if change == "folder":
        (out / "image.png").mkdir()
    elif change == "pipe":
        os.mkfifo(out / "image.png")
    else:
        (shutil.copy if change == "content" else os.symlink)(photo, out / "image.png")
    before = sorted((path.name, path.lstat().st_ino, path.lstat().st_mtime_ns) for path in out.iterdir())
    for act in (lambda: check_result_set(out, ["image.png"]), lambda: write_result_set(out, files("image.png"), FACTS)):
        with pytest.raises(OutputError, match=r"image\.png', which is not .* of an earlier result.*; (move it|choose another)"):
            act()
    assert sorted((path.name, path.lstat().st_ino, path.lstat().st_mtime_ns) for path in out.iterdir()) == before
    assert photo.read_text() == "mine"


def test_what_the_user_put_under_a_name_of_ours_is_not_removed(tmp_path: Path) -> None:
    write_result_set(tmp_path, files("image.png", "depth_uncertainty.npy", "depth_uncertainty.png"), FACTS)
    (tmp_path / "depth_uncertainty.png").write_text("mine")
    write_result_set(tmp_path, files("image.png"), FACTS)
    assert contents(tmp_path)["depth_uncertainty.png"] == "mine"
    assert not (tmp_path / "depth_uncertainty.npy").exists()
    assert "depth_uncertainty" not in contents(tmp_path)["result.json"]
    with pytest.raises(OutputError):
        write_result_set(tmp_path, files("depth_uncertainty.png"), FACTS)


def test_a_shorter_series_leaves_what_the_user_changed(tmp_path: Path) -> None:
    for number in (1, 2):
        facts = {**FACTS, "command": "generate", "numbered": {"number": number, "of": 2}}
        write_result_set(tmp_path / str(number), files("image.png", "depth.npy"), facts)
    (tmp_path / "2" / "image.png").write_text("mine")
    remove_numbered_sets(tmp_path, "generate", besides=["1"])
    assert contents(tmp_path / "2") == {"image.png": "mine"}


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("renames", range(1, 5))
def test_a_write_that_was_interrupted_can_be_done_again(
    renames: int, is_new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_new:
        write_result_set(tmp_path, {"image.png": Text("old"), "depth.npy": Text("old"), "depth_uncertainty.npy": Text("old")}, FACTS)
    done, replace = [], os.replace

    def replace_some(source: Any, target: Any) -> None:
        done.append(target)
        if len(done) > renames:
            raise KeyboardInterrupt
        replace(source, target)

    new = {"image.png": Text("new"), "depth.npy": Text("new"), "depth.png": Text("new")}
    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        write_result_set(tmp_path, new, FACTS)
    monkeypatch.setattr(os, "replace", replace)
    assert facts_beside(tmp_path / "image.png") == {}
    check_result_set(tmp_path, new)
    write_result_set(tmp_path, new, FACTS)
    assert {name: text for name, text in contents(tmp_path).items() if name in new} == dict.fromkeys(new, "new")
    (tmp_path / "image.png").write_text("mine")
    with pytest.raises(OutputError):
        check_result_set(tmp_path, new)


def test_a_result_of_an_earlier_version_is_replaced_unless_a_file_is_younger(tmp_path: Path) -> None:
    """It lists names without contents. It was renamed last, so that what lies there since is younger."""
    write_result_set(tmp_path, files("image.png", "depth.npy"), FACTS)
    facts = json.loads(contents(tmp_path)["result.json"])
    del facts["contents"]
    (tmp_path / "result.json").write_text(json.dumps(facts))
    check_result_set(tmp_path, ["image.png", "depth.npy"])
    time.sleep(0.02)
    (tmp_path / "image.png").write_text("mine")
    os.utime(tmp_path / "image.png", (1, 1))  # as a copy that keeps its date
    with pytest.raises(OutputError, match=r"image\.png"):
        write_result_set(tmp_path, files("image.png"), FACTS)
    write_result_set(tmp_path, files("depth.npy"), FACTS)
    assert contents(tmp_path)["image.png"] == "mine"
    (tmp_path / "image.png").unlink()
    write_result_set(tmp_path, files("image.png"), FACTS)


def test_a_result_says_nothing_of_what_was_put_in_the_place_of_its_file(tmp_path: Path) -> None:
    write_result_set(tmp_path, files("image.png"), {**FACTS, "span_deg": 90})
    (tmp_path / "image.png").write_text("mine")
    assert facts_beside(tmp_path / "image.png") == {}
