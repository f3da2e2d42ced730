"""A run's state on disk: it comes back, belongs to one run, and a write that fails leaves the one before."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from jointnet.errors import OutputError, RunFolderError
from jointnet.training import state
from jointnet.training.state import STATE_FILE, Progress, Trained, load_state, read_progress, save_state
from tests.training.toy import trained


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 kB."""
    yield from mounted(tmp_path / "disk", "size=256k")


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_state_comes_back(tmp_path: Path) -> None:
    ours, theirs = trained(0), trained(1)
    ours.average = [p.detach() / 2 for p in ours.parameters.values()]
    theirs.average = [torch.zeros_like(p) for p in theirs.parameters.values()]
    progress = Progress(step=7, curve=[{"step": 7, "loss": 0.5}], plans=[{"from_step": 0, "steps": 9}])
    save_state(tmp_path, ours, progress)
    assert load_state(tmp_path, theirs) == progress
    for (name, one), (other, another) in zip(ours.gathered(), theirs.gathered(), strict=True):
        assert name == other
        assert torch.equal(one, another), name
    assert load_state(tmp_path / "new", theirs) == Progress()


def test_a_write_that_fails_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained(0)
    save_state(tmp_path, network, Progress(step=1))

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OutputError, match=r"state\.safetensors': No space left on device; free space"):
        save_state(tmp_path, network, Progress(step=2))
    assert load_state(tmp_path, network).step == 1
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_full_disk_leaves_the_state_before(small_disk: Path) -> None:
    network = trained(0, width=5000)  # 120 kB with its moments
    save_state(small_disk, network, Progress(step=1))
    (small_disk / "other").write_bytes(b"x" * 100_000)
    with pytest.raises(OutputError, match="No space left on device"):
        save_state(small_disk, network, Progress(step=2))
    assert sorted(path.name for path in small_disk.iterdir()) == ["other", STATE_FILE]
    (small_disk / "other").unlink()
    assert load_state(small_disk, network).step == 1


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    network = trained(0)
    save_state(small_disk, network, Progress(step=1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match="Read-only file system"):
        save_state(small_disk, network, Progress(step=2))
    assert load_state(small_disk, network).step == 1


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "of something else": lambda path: save_file({"x": torch.zeros(2)}, path),
    "without weights": lambda path: keep(path, "optimizer."),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("/nowhere/state")),
}


def keep(path: Path, start: str) -> None:
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys() if name.startswith(start)}  # noqa: SIM118 - not a dict
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_refused_by_name_and_left_alone(kind: str, tmp_path: Path) -> None:
    network = trained(0)
    save_state(tmp_path, network, Progress(step=1))
    DAMAGE[kind](tmp_path / STATE_FILE)
    with pytest.raises(RunFolderError, match=r"state\.safetensors'.*delete it to train from the start") as error:
        load_state(tmp_path, network)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_state_of_a_run_with_other_facts_is_refused(tmp_path: Path) -> None:
    network = trained(0)
    facts = {"lr": 0.1, "data": {"depth": "aa"}, "modalities": ("rgb", "depth")}
    save_state(tmp_path, network, Progress(step=1), facts)
    assert read_progress(tmp_path, facts).step == load_state(tmp_path, network, facts).step == 1
    with pytest.raises(RunFolderError, match=r"another run \(lr 0\.1, now 0\.2; data\.depth aa, now bb\); pass another folder"):
        read_progress(tmp_path, {"lr": 0.2, "data": {"depth": "bb"}})
    with pytest.raises(RunFolderError, match="seed not known, now 1"):
        load_state(tmp_path, network, {"seed": 1})
    with pytest.raises(RunFolderError, match="trains other weights"):
        load_state(tmp_path, Trained(network.network, network.optimizer, [p.detach() for p in network.parameters.values()]))


def test_a_state_that_does_not_name_its_settings_is_refused(tmp_path: Path) -> None:
    network = trained(0)
    save_state(tmp_path, network, Progress(step=1))
    with safe_open(tmp_path / STATE_FILE, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors, tmp_path / STATE_FILE, metadata={name: value for name, value in metadata.items() if name != "facts"})
    with pytest.raises(RunFolderError, match="earlier version"):
        read_progress(tmp_path, {})


def test_states_are_saved_with_the_umasks_mode(tmp_path: Path, umask: int) -> None:
    network = trained(0)
    save_state(tmp_path, network, Progress(step=1))
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o666 & ~umask
    assert json.loads(safe_open(tmp_path / STATE_FILE, "pt").metadata()["progress"])["step"] == 1
