"""A stage from start and data to a saved model: what resumes, what is refused, what is left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.checkpoints.folder import contents_of_model
from jointnet.data.folder import FolderSource
from jointnet.errors import DamagedFileWarning, DataFolderError, JointNetError, OutputError, RunFolderError
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import stage1
from jointnet.training.stage import train_stage
from jointnet.training.state import STATE_FILE
from tests.conftest import tiny_pipeline

RECIPE = replace(stage1(), size=32)
CONFIG = replace(RECIPE, optim=replace(RECIPE.optim, steps=2, batch_size=2, lr=1e-2, warmup_steps=0, precision="float32"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(folder / f"{i}.png")
        np.save(folder / f"{i}.depth.npy", rng.random((32, 40), np.float32))
        (folder / f"{i}.txt").write_text("a box\n")
    return folder


def train(data: Path, model_folder: Path, run: Path, **more: Any) -> Path:
    pipeline = JointNetPipeline.from_pretrained(model_folder)
    source = FolderSource(data, depth_unit=more.pop("depth_unit", "disparity"))
    arguments = {"recipe": "stage1", "start": model_folder, "start_name": "a start", "config": CONFIG, "run_dir": run}
    return train_stage(pipeline, source, **{**arguments, **more})


def steps(count: int) -> Any:
    return replace(CONFIG, optim=replace(CONFIG.optim, steps=count))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return JointNetPipeline.from_pretrained(model).joint_unet.state_dict()


def test_a_moved_data_folder_resumes_to_the_same_weights(data: Path, model_folder: Path, tmp_path: Path) -> None:
    train(data, model_folder, tmp_path / "cut", config=steps(1))
    latents = (tmp_path / "cut" / "latents" / "00000.safetensors").stat().st_mtime_ns
    moved = data.rename(tmp_path / "moved")
    cut = train(moved, model_folder, tmp_path / "cut", config=steps(3))
    assert (tmp_path / "cut" / "latents" / "00000.safetensors").stat().st_mtime_ns == latents
    whole = weights(train(moved, model_folder, tmp_path / "whole", config=steps(3)))
    assert all(torch.equal(whole[name], value) for name, value in weights(cut).items())
    provenance = json.loads((cut / "provenance.json").read_text())
    assert [(row["from_step"], row["steps"]) for row in provenance["plans"]] == [(0, 1), (1, 3)]
    assert provenance["config"]["optim"]["steps"] == provenance["steps"] == 3


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a caption": (lambda d: (d / "1.txt").write_text("a cox\n"), "data.captions"),
    "a map": (lambda d: np.save(d / "1.depth.npy", np.load(d / "1.depth.npy")[::-1]), "data.depth"),
    "a picture": (lambda d: shutil.copy(d / "0.png", d / "1.png"), "data.rgb"),
    "fewer": (lambda d: [path.unlink() for path in d.glob("3.*")], "data.captions"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data_do_not_get_the_old_weights(what: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    model = train(data, model_folder, tmp_path / "run")
    before = (model / "provenance.json").stat()
    dates = {path: path.stat() for path in data.iterdir()}
    change, name = CHANGES[what]
    change(data)
    for path in data.iterdir():
        os.utime(path, ns=(dates[path].st_atime_ns, dates[path].st_mtime_ns))
    with pytest.raises(RunFolderError, match=rf"another run .*{name} \w+, now \w+"):
        train(data, model_folder, tmp_path / "run")
    assert (model / "provenance.json").stat() == before


def test_a_start_with_other_weights_is_another_run_and_a_moved_one_is_not(data: Path, model_folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(model_folder, start)
    train(data, model_folder, tmp_path / "run")
    train(data, start, tmp_path / "run")
    tiny_pipeline(seed=1).save_pretrained(start)
    with pytest.raises(RunFolderError, match=r"another run \(start \w+, now \w+\)"):
        train(data, start, tmp_path / "run")
    (start / "README.md").write_text("a note")
    assert contents_of_model(start) != contents_of_model(model_folder)


@pytest.mark.parametrize(
    ("more", "got"), [({"config": replace(CONFIG, size=16)}, "size 32, now 16"), ({"depth_near_m": 2.0}, "depth_near_m None, now 2.0")]
)
def test_other_sizes_and_units_are_another_run(more: dict[str, Any], got: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    train(data, model_folder, tmp_path / "run", config=steps(1))
    with pytest.raises(RunFolderError, match=got):
        train(data, model_folder, tmp_path / "run", **more)


def test_depth_in_another_unit_is_another_run_and_shares_the_near_distance(data: Path, model_folder: Path, tmp_path: Path) -> None:
    for path in data.glob("*.depth.npy"):
        np.save(path, 2 + 3 * np.load(path))
    model = train(data, model_folder, tmp_path / "run", depth_unit="m", depth_near_m=2.0)
    assert JointNetPipeline.from_pretrained(model).config.depth_near_m == 2
    with pytest.raises(RunFolderError, match=r"data\.depth \w+ in m, near 2\.0 m, now \w+ in m, near None m"):
        train(data, model_folder, tmp_path / "run", depth_unit="m")
    second = train(data, model, tmp_path / "second", depth_unit="m", depth_near_m=2.0, config=steps(1))
    assert JointNetPipeline.from_pretrained(second).config.depth_near_m == 2


def test_a_finished_run_is_announced_and_nothing_is_written(
    data: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    model = train(data, model_folder, run)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "files.sqlite")}
    assert train(data, model_folder, run) == model
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if "finished after 2 steps" in line] == lines[-1:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shutil.rmtree(model)  # a run that was killed before its model was saved
    assert weights(train(data, model_folder, run)).keys() == weights(model_folder).keys()


def test_the_near_distance_stays_however_the_data_folder_is_spelled(
    data: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(data, model_folder, tmp_path / "one", depth_near_m=2.0, config=steps(1))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path / "copied")
    for number, spelling in enumerate(("data", "./data/", str(data), "copied")):
        model = train(Path(spelling), first, tmp_path / f"two{number}", config=steps(1))
        assert JointNetPipeline.from_pretrained(model).config.depth_near_m == 2
    np.save(data / "0.depth.npy", np.load(data / "0.depth.npy")[::-1])
    assert JointNetPipeline.from_pretrained(train(data, first, tmp_path / "three")).config.depth_near_m is None


def test_models_are_saved_with_the_umasks_modes(data: Path, model_folder: Path, tmp_path: Path, umask: int) -> None:
    train(data, model_folder, tmp_path / "run", config=steps(1))
    tiny_pipeline().save_pretrained(tmp_path / "run" / "other")
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {oct(0o666 & ~umask)}
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").rglob("*") if path.is_dir()} == {oct(0o777 & ~umask)}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an empty state": lambda run: (run / STATE_FILE).write_bytes(b""),
    "half a state": lambda run: (run / STATE_FILE).write_bytes((run / STATE_FILE).read_bytes()[:-100]),
    "a state that is a link to nothing": lambda run: ((run / STATE_FILE).unlink(), (run / STATE_FILE).symlink_to("/nowhere/state")),
    "a model that is a link to nothing": lambda run: (shutil.rmtree(run / "model"), (run / "model").symlink_to("/nowhere/model")),
    "a model that is a file": lambda run: (shutil.rmtree(run / "model"), (run / "model").touch()),
    "a model folder of something else": lambda run: (shutil.rmtree(run / "model"), (run / "model" / "mine").mkdir(parents=True)),
    "a run file that is a folder": lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_run_gets_one_line_before_anything_is_trained(what: str, data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, model_folder, run, config=steps(1))
    DAMAGE[what](run)
    (run / "latents" / "files.sqlite").touch()  # it may be written
    before = sorted(run.rglob("*"))
    with pytest.raises(JointNetError) as error:
        train(data, model_folder, run, config=steps(2))
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(run.rglob("*")) == before


def test_damaged_latents_and_run_files_are_made_anew(data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, model_folder, run, config=steps(1))
    for name in ("run.json", "latents/00000.safetensors", "latents/files.sqlite"):
        (run / name).write_bytes(b"")
    with pytest.warns(DamagedFileWarning, match=r"00000\.safetensors"):
        cut = train(data, model_folder, run, config=steps(2))
    whole = weights(train(data, model_folder, tmp_path / "whole", config=steps(2)))
    assert all(torch.equal(whole[name], value) for name, value in weights(cut).items())


@pytest.mark.parametrize("room", ["24k", "2m", "5m"])
def test_a_full_disk_gets_one_line_and_the_run_goes_on_when_there_is_room(
    room: str, data: Path, model_folder: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        with pytest.raises(OutputError, match=r"No space left on device.*free space"):
            train(data, model_folder, disk / "run", config=steps(1))
        assert not list((disk / "run").rglob("*unfinished*"))
        assert not (disk / "run" / "model").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        cut = train(data, model_folder, disk / "run", config=steps(1))
        whole = weights(train(data, model_folder, tmp_path / "whole", config=steps(1)))
        assert all(torch.equal(whole[name], value) for name, value in weights(cut).items())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_bad_data_leave_no_folder_or_the_list_of_good_files_only(data: Path, model_folder: Path, tmp_path: Path) -> None:
    (data / "1.txt").unlink()
    with pytest.raises(DataFolderError, match=r"no caption for 1\.png"):
        train(data, model_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
