"""A run's folder: known by settings and contents, held by one process, saved when it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jointnet.errors import OutputError, RunFolderError
from jointnet.files.lock import LOCK_FILE
from jointnet.recipes import demo_stage1
from jointnet.training.config import OptimConfig
from jointnet.training.provenance import holds_result, is_same_depth, write_provenance
from jointnet.training.run import RUN_FILE, claim, open_run, settings_of
from jointnet.training.state import STATE_FILE, Progress, read_progress
from tests.training.slow_run import train_slowly
from tests.training.test_state import mounted, small_disk
from tests.training.toy import fit_rows

__all__ = ["small_disk"]

ROOT = Path(__file__).parents[2]
CONFIG = OptimConfig(lr=1e-2, batch_size=4, steps=4)
FACTS: dict[str, Any] = {"recipe": "stage1", "data": {"depth": "d1"}}


def train(run_dir: Path, config: OptimConfig = CONFIG, **more: Any) -> tuple[Progress, Tensor]:
    torch.manual_seed(0)
    model, data = nn.Linear(3, 3), torch.randn(16, 3)
    progress = fit_rows(
        model, lambda rows, _: {"loss": model(data[rows]).square().mean()}, **{"config": config, "run_dir": run_dir, "facts": FACTS, **more}
    )
    return progress, model.weight.detach()


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"lr": 1e-3}, "lr 0.01, now 0.001"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"batch_size": 2}, "batch_size 4, now 2"),
        ({"precision": "bfloat16"}, "precision float32, now bfloat16"),
        ({"warmup_steps": 1}, "warmup_steps 0, now 1"),
        ({"weight_decay": 0.0}, "weight_decay 0.01, now 0.0"),
    ],
)
def test_a_finished_run_is_not_taken_for_one_with_other_settings(changes: dict[str, Any], got: str, tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(RunFolderError, match=f"another run .{got}"):
        train(tmp_path, replace(CONFIG, **changes))
    with pytest.raises(RunFolderError, match=f"another run .{got}"):
        claim(tmp_path, replace(CONFIG, **changes), FACTS)


@pytest.mark.parametrize(
    ("more", "got"),
    [
        ({"facts": {**FACTS, "data": {"depth": "d2"}}}, "data.depth d1, now d2"),
        ({"num_samples": 15}, "num_samples 16, now 15"),
    ],
)
def test_a_finished_run_is_not_taken_for_one_on_other_data(more: dict[str, Any], got: str, tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(RunFolderError, match=got):
        train(tmp_path, **more)


def test_a_stage_is_known_by_all_its_settings_but_the_number_of_steps() -> None:
    config = demo_stage1()
    settings = settings_of(config)
    later = {"branch", "teacher_steps", "teacher_guidance", "predicts_in_one_step"}
    assert set(settings) == {*vars(config), *vars(config.optim)} - {"optim", "steps"} - later
    assert settings_of(replace(config, branch="thin:0.5", teacher_steps=50)).keys() - settings.keys() == {"branch", "teacher_steps"}
    assert settings["text_drop"] == 0.15
    assert settings_of(config.optim).items() <= settings.items()


def test_a_finished_run_is_announced_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = train(tmp_path)
    written = (tmp_path / STATE_FILE).stat()
    capsys.readouterr()
    progress, second = train(tmp_path)
    assert torch.equal(first, second)
    line = capsys.readouterr().err.strip()
    assert f"{tmp_path} holds this run, finished after 4 steps" in line
    assert len(line.splitlines()) == 1
    assert (tmp_path / STATE_FILE).stat() == written
    assert len(progress.plans) == 1


def test_more_steps_and_another_budget_resume_and_fewer_steps_do_not(tmp_path: Path) -> None:
    train(tmp_path)
    progress, _ = train(tmp_path, replace(CONFIG, steps=6), budget_minutes=100)
    assert progress.step == 6
    assert [(row["from_step"], row["steps"], row["budget_minutes"]) for row in progress.plans] == [(0, 4, None), (4, 6, 100)]
    with pytest.raises(RunFolderError, match=r"got 5 steps for .*, which has trained 6"):
        train(tmp_path, replace(CONFIG, steps=5))
    with pytest.raises(RunFolderError, match="which has trained 6"):
        claim(tmp_path, replace(CONFIG, steps=5), FACTS)
    assert "device" not in settings_of(CONFIG)
    assert progress.plans[0]["device"] == "cpu"
    write_provenance(tmp_path, "toy", CONFIG, progress)
    assert json.loads((tmp_path / "provenance.json").read_text())["plans"] == progress.plans


def test_a_claim_writes_what_the_run_is_and_leaves_that_of_a_finished_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert claim(run, CONFIG, FACTS, commit="a") == Progress()
    content = json.loads((run / RUN_FILE).read_text())
    assert (content["recipe"], content["config"]["lr"], content["commit"]) == ("stage1", 0.01, "a")
    claim(run, replace(CONFIG, lr=1.0), FACTS, commit="b")  # no state yet
    train(run)
    assert claim(run, CONFIG, FACTS, commit="c").step == 4
    assert json.loads((run / RUN_FILE).read_text())["commit"] == "b"
    assert claim(run, replace(CONFIG, steps=5), FACTS, commit="d").step == 4
    assert json.loads((run / RUN_FILE).read_text())["commit"] == "d"


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_damaged_run_file_is_written_anew(content: str, tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / RUN_FILE).write_text(content)
    assert claim(tmp_path, replace(CONFIG, steps=5), FACTS).step == 4
    assert json.loads((tmp_path / RUN_FILE).read_text())["recipe"] == "stage1"
    with pytest.raises(RunFolderError, match="another run"):
        claim(tmp_path, CONFIG, {**FACTS, "recipe": "stage2"})


def test_a_run_file_that_is_a_link_to_nothing_is_replaced_and_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).symlink_to("/nowhere/run.json")
    claim(tmp_path, CONFIG, FACTS)
    assert not (tmp_path / RUN_FILE).is_symlink()
    (tmp_path / RUN_FILE).unlink()
    (tmp_path / RUN_FILE).mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*run\.json"):
        claim(tmp_path, CONFIG, FACTS)


def test_a_run_folder_that_is_a_link_to_nothing_or_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere/run")
    with pytest.raises(OutputError, match="link is a link to '/nowhere/run', which is not there"):
        train(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"File exists|Not a directory"):
        train(tmp_path / "file")


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for run_dir in (small_disk, small_disk / "run"):
        with pytest.raises(OutputError, match="Read-only file system"):
            train(run_dir)


def test_a_disk_that_is_full_from_the_start_is_named(tmp_path: Path) -> None:
    for disk in mounted(tmp_path / "full", "size=4k,nr_inodes=3"):
        (disk / "other").write_bytes(b"x" * 4096)
        with pytest.raises(OutputError, match="No space left on device"):
            train(disk / "run")


def test_a_result_is_that_of_its_progress_only(tmp_path: Path) -> None:
    assert not holds_result(tmp_path / "model", Progress())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    write_provenance(tmp_path / "model", "toy", CONFIG, Progress(step=3))
    assert holds_result(tmp_path / "model", Progress(step=3))
    assert not holds_result(tmp_path / "model", Progress(step=4))


def test_data_are_the_same_by_their_depth_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = {"data": "somewhere", "contents": {"data": {"depth": "d1", "captions": "c1"}}}
    assert is_same_depth(earlier, tmp_path, {"depth": "d1", "captions": "c2"})
    assert not is_same_depth(earlier, Path("somewhere"), {"depth": "d2"})
    monkeypatch.chdir(tmp_path)
    by_path = {"data": str(tmp_path / "data")}
    for spelling in ("data", "./data/", "data/../data"):
        assert is_same_depth(by_path, Path(spelling), {"depth": "d1"})
    assert not is_same_depth(by_path, Path("other"), {"depth": "d1"})
    assert not is_same_depth({}, tmp_path, {"depth": "d1"})


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    class Failed(Exception):
        """Raised in the block."""

    with pytest.raises(Failed), open_run(tmp_path / "run"):
        raise Failed
    assert not (tmp_path / "run").exists()
    with open_run(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert (tmp_path / "run" / "a").exists()


@contextmanager
def running(run_dir: Path, pause: float = 0.02, save_every_minutes: float = 5.0, workers: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A training in another process, after a few steps."""
    arguments = [str(run_dir), str(pause), "1000000", str(save_every_minutes), str(workers)]
    command, pipe = [sys.executable, "-m", "tests.training.slow_run", *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["step\n"] * 3
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on_as_if_it_had_not_come(number: int, code: int, tmp_path: Path) -> None:
    with running(tmp_path / "cut") as process:
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code, error  # Python itself ends so after a KeyboardInterrupt; the command has code 130
    assert "saved in" in error
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [STATE_FILE]
    step = read_progress(tmp_path / "cut", {}).step
    assert step >= 3
    cut, whole = (train_slowly(tmp_path / name, 0, step + 4, 5) for name in ("cut", "whole"))
    assert torch.equal(cut, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_a_run_saves(number: int, code: int, tmp_path: Path) -> None:
    """As a terminal's Ctrl-C and a cluster's scheduler send it: the loader's workers get it too."""
    with running(tmp_path / "run", workers=2) as process:
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "saved in" in error
    assert read_progress(tmp_path / "run", {}).step >= 3


def test_a_second_signal_ends_the_run_in_the_middle_of_a_step(tmp_path: Path) -> None:
    with running(tmp_path, pause=1) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        assert "stopping after this step" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not list(tmp_path.iterdir())


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    with running(tmp_path, save_every_minutes=0) as process:
        with pytest.raises(OutputError, match=f"process {process.pid} is writing to"):
            train(tmp_path)
        process.kill()  # as kill -9
        process.communicate()
    with open_run(tmp_path):
        assert read_progress(tmp_path, {}).step > 0


def test_a_worker_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    with open_run(tmp_path), ProcessPoolExecutor(1, get_context("fork")) as pool:
        pool.submit(os.getpid).result()
        lock = os.open(tmp_path / LOCK_FILE, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert f"FLOCK  ADVISORY  WRITE {os.getpid()}" in Path("/proc/locks").read_text()
        (worker,) = pool._processes or ()
        assert str(tmp_path) not in " ".join(os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir())
        os.close(lock)


def test_two_threads_of_a_process_do_not_share_a_folder(tmp_path: Path) -> None:
    with open_run(tmp_path), open_run(tmp_path), ThreadPoolExecutor(1) as threads, pytest.raises(OutputError, match="is writing to"):
        threads.submit(train, tmp_path).result()
    assert train(tmp_path)[0].step == 4
