"""A file is replaced whole or not at all, whoever writes it and whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from safetensors.torch import load_file, save_file

from jointnet.files.atomic import bring_to_disk, replacing_file, replacing_files, write_bytes, write_json, write_text


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("other"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_failing_sync_leaves_all_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        write_text(path, "old")
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"), replacing_files(tmp_path, ["a", "b"]) as temporary:
        _ = [path.write_text("new") for path in temporary]
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert names_in(tmp_path) == ["a", "b"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with replacing_files(tmp_path, ["a", "b"]) as temporary:
        _ = [path.touch() for path in temporary]
        assert events == []
    assert events == ["fsync", "fsync", "replace", "replace"]


def test_many_files_have_one_hidden_name_in_their_folder_and_no_file_before_it_is_written(tmp_path: Path) -> None:
    names = [f"{index}.txt" for index in range(3000)]
    with replacing_files(tmp_path, names) as temporary:
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(".")
        assert names_in(hidden) == []
        for count, path in enumerate(temporary):
            if count % 1000 == 0:
                assert len(names_in(hidden)) == count
            path.write_text(path.name)
        assert names_in(tmp_path) == [hidden.name]
    assert names_in(tmp_path) == sorted(names)
    assert all((tmp_path / name).read_text() == name for name in names)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(143), None])
def test_files_of_which_one_is_not_written_leave_the_old_ones_and_nothing_else(error: BaseException | None, tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def fail() -> None:
        with replacing_files(tmp_path, ["a", "b", "c"]) as (first, second, _):
            first.write_text("new")
            second.write_text("half")
            if error is not None:
                raise error

    with pytest.raises(FileNotFoundError if error is None else type(error)):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_its_target(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "mine")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("target")
    write_text(tmp_path / "a", "new")
    with replacing_files(tmp_path, ["b"]) as (temporary,):
        temporary.write_text("new")
    assert (tmp_path / "target").read_text() == "mine"
    assert not any((tmp_path / name).is_symlink() for name in ("a", "b"))


def test_the_mode_of_many_files_follows_the_umask_even_one_that_shuts_folders(tmp_path: Path) -> None:
    before = os.umask(0o137)  # a new folder of it can neither be entered nor filled
    try:
        with replacing_files(tmp_path, ["a", "b"]) as temporary:
            for path in temporary:
                path.touch(0o600)
    finally:
        os.umask(before)
    assert {mode_of(path) for path in tmp_path.iterdir()} == {0o640}


def test_the_mode_follows_the_umask_whatever_the_writer_does(tmp_path: Path, umask: int) -> None:
    write_bytes(tmp_path / "a.bin", b"a")
    with replacing_file(tmp_path / "b.safetensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
        temporary.chmod(0o600)
    with replacing_file(tmp_path / "c.bin") as temporary:
        temporary.unlink()  # as a writer does that replaces the file itself
        temporary.touch(0o600)
    assert {mode_of(path) for path in tmp_path.iterdir()} == {0o666 & ~umask}
    assert load_file(tmp_path / "b.safetensors")["x"].tolist() == [0, 0]


def test_files_of_a_folder_get_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    (tmp_path / "part").mkdir()
    for name in ("a.safetensors", "part/b.safetensors", "part/b.json"):
        (tmp_path / name).touch(0o600)
    bring_to_disk(tmp_path, "*.safetensors")
    modes = {path.name: mode_of(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {"a.safetensors": 0o640, "b.safetensors": 0o640, "b.json": 0o600}


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    path, barrier = tmp_path / "a.txt", Barrier(2)
    seen: list[Path] = []

    def write(content: str) -> None:
        with replacing_file(path) as temporary:
            seen.append(temporary)
            barrier.wait(10)  # both are open
            temporary.write_text(content)
            barrier.wait(10)

    threads = [Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 2
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert names_in(tmp_path) == ["a.txt"]


def test_the_temporary_file_is_hidden_beside_it_and_has_its_suffix(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "depth.npy") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".npy"
        assert not (tmp_path / "depth.npy").exists()
    assert names_in(tmp_path) == ["depth.npy"]


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".json")
    write_json(path, {})
    assert path.exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        write_text(tmp_path / "missing" / "a.txt", "a")


def test_json_keeps_letters_and_a_value_it_lacks_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": "Würfel", "a": 1}, indent=2, sort_keys=True)
    assert path.read_text(encoding="utf-8") == '{\n  "a": 1,\n  "b": "Würfel"\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["a"] == 1


def test_files_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, jointnet.files.atomic, jointnet.files.json_files, jointnet.files.fingerprints, jointnet.files.result_set\n"
        "assert not {'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
