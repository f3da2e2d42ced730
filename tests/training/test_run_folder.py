"""A run's folder is the user's: what no run of ours wrote stays there, and a run that fails leaves only what a resumed one needs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jointnet.errors import DataFolderError, DivergenceError, JointNetError, OutputError, RunFolderError
from jointnet.files.lock import LOCK_FILE, locked
from jointnet.training.run import RUN_FILE, open_run
from jointnet.training.state import STATE_FILE
from tests.conftest import tiny_pipeline
from tests.training.test_run import train as fit_toy
from tests.training.test_stage import data, steps, train
from tests.training.test_state import mounted, small_disk

__all__ = ["data", "small_disk"]


def held(folder: Path) -> dict[str, str | bytes]:
    """Contents of all files and links below a folder, and the folders' names."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def link(path: Path, to: Path, content: str) -> None:
    to.write_text(content)
    path.symlink_to(to)


def save(path: Path, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({"latents": torch.zeros(2, 3)}, path, metadata=metadata)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a run file of something else": lambda run: write(run / RUN_FILE, '{"mine": 1, "config": {}}'),
    "a run file with a list": lambda run: write(run / RUN_FILE, "[1]"),
    "an empty run file": lambda run: write(run / RUN_FILE, ""),
    "a run file that is a text": lambda run: write(run / RUN_FILE, "my running diary"),
    "a run file that is a folder": lambda run: (run / RUN_FILE).mkdir(),
    "a run file that is a link to something else": lambda run: link(run / RUN_FILE, run / "diary.json", '{"mine": 1}'),
    "a run file that is a link to nothing": lambda run: (run / RUN_FILE).symlink_to("/nowhere/run.json"),
    "a lock of something else": lambda run: write(run / LOCK_FILE, "key of the house"),
    "a long number as lock": lambda run: write(run / LOCK_FILE, "1" * 1000),
    "a lock that is a link": lambda run: link(run / LOCK_FILE, run / "number", "12"),
    "a lock that is a link to nothing": lambda run: (run / LOCK_FILE).symlink_to(run / "number"),
    "a lock that is a folder": lambda run: (run / LOCK_FILE).mkdir(),
    "a lock that is a pipe": lambda run: os.mkfifo(run / LOCK_FILE),
    "a state of something else": lambda run: save(run / STATE_FILE),
    "a state that is a text": lambda run: write(run / STATE_FILE, "of Denmark"),
    "a state that is a pipe": lambda run: os.mkfifo(run / STATE_FILE),
    "latents of something else": lambda run: save(run / "latents" / "00000.safetensors"),
    "latents of something else, by its metadata": lambda run: save(run / "latents" / "00001.safetensors", {"format": "pt"}),
    "latents that are a text": lambda run: write(run / "latents" / "00000.safetensors", "mine"),
    "latents that are a folder": lambda run: (run / "latents" / "00000.safetensors").mkdir(parents=True),
    "latents that are a link to nothing": lambda run: (
        (run / "latents").mkdir(),
        (run / "latents" / "00000.safetensors").symlink_to("/nowhere/rgb"),
    ),
    "latents in one file": lambda run: write(run / "latents", "mine"),
    "a folder of latents that is a link to nothing": lambda run: (run / "latents").symlink_to("/nowhere/latents"),
    "an index of something else": lambda run: write(run / "latents" / "files.sqlite", '{"a.png": ["a", "b"]}'),
    "an empty index": lambda run: write(run / "latents" / "files.sqlite", ""),
    "a model of something else": lambda run: write(run / "model" / "notes.txt", "mine"),
    "a model that is a file": lambda run: write(run / "model", "mine"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_a_file_of_our_name_that_is_not_ours_is_refused_and_left_alone(
    what: str, data: Path, model_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write(run / "notes.txt", "mine")
    FOREIGN[what](run)
    before, changed_at = held(run), run.stat().st_mtime_ns
    with pytest.raises(JointNetError) as error:
        train(data, model_folder, run, config=steps(1))
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)
    assert held(run) == before
    assert run.stat().st_mtime_ns == changed_at, "not even for a moment"


def test_other_files_of_the_users_stay_beside_a_run(data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    mine = {"notes.txt": "mine", "latents/notes.txt": "mine too", "state.txt": "of the art", "lock": "a lock"}
    for name, content in mine.items():
        (run / name).parent.mkdir(exist_ok=True)
        write(run / name, content)
    train(data, model_folder, run, config=steps(1))
    assert {name: (run / name).read_text() for name in mine} == mine
    assert {path.name for path in run.iterdir()} == {"notes.txt", "state.txt", "lock", "latents", "model", RUN_FILE, STATE_FILE}


@pytest.mark.parametrize("what", ["a run file of something else", "latents of something else", "an index of something else"])
def test_what_is_not_ours_is_not_replaced_in_a_run_of_ours_either(what: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, model_folder, run, config=steps(1))
    FOREIGN[what](run)
    before = held(run)
    with pytest.raises(OutputError, match="which no run of ours wrote"):
        train(data, model_folder, run, config=steps(2))
    assert held(run) == before


@pytest.mark.parametrize("place", ["run", "some/new/run", "."])
def test_bad_data_leave_nothing_of_ours(place: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out / "notes.txt", "mine")
    for path in data.iterdir():  # the index takes in files that have not changed just now only
        os.utime(path, (1, 1))
    np.save(data / "1.depth.npy", np.full((32, 40), 7.0))
    with pytest.raises(DataFolderError, match=r"depth map that is constant \(7\)"):
        train(data, model_folder, out / place)
    assert held(out) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("room", ["8k", "12k", "24k"])
def test_a_disk_that_is_full_before_all_is_encoded_keeps_nothing_of_ours(room: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    for disk in mounted(tmp_path / "disk", f"size={room}"):
        with pytest.raises(OutputError, match="No space left on device"):
            train(data, model_folder, disk / "some" / "run", config=steps(1))
        assert held(disk) == {}


def test_a_run_that_fails_before_its_first_state_keeps_encoded_latents_only(data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pipeline = tiny_pipeline()
    pipeline.unet.conv_out.weight.data.fill_(torch.inf)
    pipeline.save_pretrained(tmp_path / "spoilt")
    with pytest.raises(DivergenceError):
        train(data, tmp_path / "spoilt", run)
    kept = {name for name in held(run) if not name.startswith("latents/files.")}
    assert kept == {"latents", "latents/00000.safetensors"}
    written = (run / "latents" / "00000.safetensors").stat().st_mtime_ns
    train(data, model_folder, run, config=steps(1))
    assert (run / "latents" / "00000.safetensors").stat().st_mtime_ns == written


def test_what_failed_after_the_first_state_keeps_the_run(data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, model_folder, run, config=steps(1))
    before = {name: content for name, content in held(run).items() if not name.startswith("latents/files.")}
    (data / "1.txt").unlink()
    with pytest.raises(RunFolderError, match=r"another run \(data\.captions"):
        train(data, model_folder, run, config=steps(2))
    assert {name: content for name, content in held(run).items() if not name.startswith("latents/files.")} == before


def test_a_killed_runs_lock_is_taken_and_goes_with_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).write_text("12345")
    with open_run(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).read_text() == str(os.getpid())
    assert held(tmp_path / "run") == {}
    fit_toy(tmp_path / "run")
    assert list(held(tmp_path / "run")) == [STATE_FILE]


def test_a_run_file_says_whose_it_is(data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, model_folder, run, config=steps(1))
    facts = json.loads((run / RUN_FILE).read_text())
    assert facts["program"] == "jointnet"
    del facts["program"]  # as earlier versions wrote it
    (run / RUN_FILE).write_text(json.dumps(facts))
    train(data, model_folder, run, config=steps(2))


def test_a_lock_that_does_not_fit_on_the_disk_goes_again(small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(OutputError, match="No space left on device"), open_run(small_disk):
        raise AssertionError("there is no room")
    assert list(held(small_disk)) == ["other"]


class Failed(Exception):
    """Raised in a run."""


def hold_often(folder: Path) -> int:
    """Try many times to hold a folder; count how often it worked. Raises: FileExistsError if two hold it at once."""
    count = 0
    for _ in range(300):
        try:
            with suppress(Failed), open_run(folder):
                os.close(os.open(folder / "held", os.O_CREAT | os.O_EXCL))
                count += 1
                (folder / "held").unlink()
                raise Failed  # the folder is removed again
        except OutputError as error:
            if "is writing to" not in str(error):
                raise
    return count


def test_one_process_at_a_time_holds_a_folder_whose_lock_comes_and_goes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        counts = list(pool.map(hold_often, [tmp_path / "run"] * 3))
    assert min(counts) > 0
    assert set(held(tmp_path)) <= {"run"}, "at most the empty folder"


def test_a_lock_that_somebody_replaced_is_left_alone(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK_FILE).unlink()
        (tmp_path / LOCK_FILE).write_text("mine")
    assert (tmp_path / LOCK_FILE).read_text() == "mine"
    shutil.rmtree(tmp_path)


def test_a_removed_folder_is_no_error_at_the_end(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
