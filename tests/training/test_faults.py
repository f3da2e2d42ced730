"""Nothing is lost and nothing changes: killed at any point, resumed in another number of processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.training.state import STATE_FILE, read_progress

ROOT = Path(__file__).parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures, the last of them broken: with a batch of four, epochs begin in the middle of a batch."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)).save(folder / f"{i}.png")
        np.save(folder / f"{i}.depth.npy", rng.random((32, 48), np.float32))
        (folder / f"{i}.txt").write_text(f"a box\na ball {i}\n")
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:200])
    return folder


def started(run: Path, kind: str, data: Path, start: Path, *, processes: int = 1, steps: int = STEPS) -> subprocess.Popen[str]:
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "tests.training.distributed_run", str(run), str(steps), kind, str(data), str(start)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finished(run: Path, kind: str, data: Path, start: Path, *, processes: int = 1, steps: int = STEPS) -> Path:
    process = started(run, kind, data, start, processes=processes, steps=steps)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return run


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_progress(run, {}).curve]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    with safe_open(run / STATE_FILE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


@pytest.fixture(scope="module")
def whole(data: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, in one process."""
    return finished(tmp_path_factory.mktemp("runs") / "whole", "ddp", data, model_folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "ddp-half-workers"])
def test_two_processes_equal_one_and_a_run_resumes_in_another_number(
    kind: str, data: Path, model_folder: Path, whole: Path, tmp_path: Path
) -> None:
    two = finished(tmp_path / "two", kind, data, model_folder, processes=2)
    assert losses(two) == pytest.approx(losses(whole), rel=1e-5)
    assert JointNetPipeline.from_pretrained(two / "model").modalities == ("rgb", "depth")
    for first, second in ((2, 1), (1, 2)):
        cut = finished(tmp_path / f"cut{first}", kind, data, model_folder, processes=first, steps=5)
        finished(cut, kind, data, model_folder, processes=second)
        assert losses(cut) == pytest.approx(losses(whole), rel=1e-5)
        expected = tensors(whole)
        for name, value in tensors(cut).items():
            off, size = (value - expected[name]).double().norm(), expected[name].double().norm()
            assert off <= 1e-3 * size, name  # in norm: Adam turns a gradient that is 0 but for rounding into a whole step


@pytest.mark.slow
def test_kill_9_at_random_points_ten_times_changes_nothing(data: Path, model_folder: Path, whole: Path, tmp_path: Path) -> None:
    """Also in the middle of a save, in a later epoch, and with loader workers."""
    run, rng, kills = tmp_path / "run", random.Random(0), 0
    while kills < 10:
        process = started(run, "ddp-workers-slow" if kills % 2 else "ddp-slow", data, model_folder)
        deadline = time.monotonic() + 120
        while not (run / "run.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if kills % 3 == 2:  # in the middle of a save
            while process.poll() is None and not list(run.glob(".*.safetensors")) and time.monotonic() < deadline:
                time.sleep(0.0005)
        else:
            time.sleep(rng.uniform(0.0, 1.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if read_progress(run, {}).step >= STEPS:
            shutil.rmtree(run)
    finished(run, "ddp", data, model_folder)
    expected = tensors(whole)
    assert losses(run) == losses(whole)
    for name, value in tensors(run).items():
        assert torch.equal(value, expected[name]), name
