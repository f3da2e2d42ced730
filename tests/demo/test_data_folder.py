"""`jointnet demo scene --num N` writes what `jointnet train --data` takes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jointnet.cli.main import main
from jointnet.data.folder import FolderSource
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from tests.conftest import read_png, tiny_pipeline


def scenes(out: Path, *more: str) -> int:
    return main(["demo", "scene", "--size", "32", "-o", str(out), *more])


def test_the_files_of_a_data_folder_are_the_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scenes(tmp_path / "data", "--num", "2", "--seed", "7") == 0
    stems = {p.name.split(".")[0] for p in (tmp_path / "data").iterdir()} - {"result"}
    assert stems == {"00000007", "00000008"}
    maps = render(sample_scene(7), 32)
    assert np.array_equal(np.load(tmp_path / "data" / "00000007.depth.npy"), maps.disparity01)
    assert np.array_equal(np.load(tmp_path / "data" / "00000007.normal.npy"), maps.normal.astype(np.float32))
    assert np.abs(read_png(tmp_path / "data" / "00000007.png") / 255 - maps.rgb).max() <= 0.5 / 255 + 1e-6
    source = FolderSource(tmp_path / "data")
    assert len(source) == 2
    assert all(text for row in range(2) for text in source.read(row, ("rgb", "depth")).captions)
    assert json.loads((tmp_path / "data" / "result.json").read_text())["depth_near_m"] == 1.5
    capsys.readouterr()


def test_a_shorter_data_folder_takes_the_place_of_a_longer_one_and_of_nothing_else(tmp_path: Path) -> None:
    assert scenes(tmp_path, "--num", "3") == 0
    (tmp_path / "00000009.png").write_text("mine")
    assert scenes(tmp_path, "--num", "2") == 0
    assert {p.name.split(".")[0] for p in tmp_path.iterdir()} == {"00000000", "00000001", "00000009", "result"}
    assert scenes(tmp_path, "--num", "10") == 2
    assert (tmp_path / "00000009.png").read_text() == "mine"
    assert scenes(tmp_path) == 0
    assert (tmp_path / "00000001.depth.npy").exists()


def test_a_model_is_trained_on_it(tmp_path: Path) -> None:
    tiny_pipeline(("rgb", "depth", "normal")).save_pretrained(tmp_path / "model")
    assert scenes(tmp_path / "data", "--num", "2") == 0
    words = ["--from", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--depth-near", "1.5", "--batch-size", "2"]
    assert main(["train", "stage1", *words, "--steps", "1", "--precision", "float32", "-o", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model" / "model_index.json").exists()


def test_a_data_folder_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    """While it is written there is one hidden name, and no file that is still to come."""
    (tmp_path / "mine.txt").write_text("mine")
    words = ["demo", "scene", "--num", "2000", "--size", "64", "-o", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "jointnet", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 100
            while not (written := list(tmp_path.glob(".*/*"))) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            names = {path.name for path in tmp_path.iterdir()}
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        finally:
            process.kill()
        assert process.stderr is not None
        error = process.stderr.read()
    assert 0 < len(written) < 2000, error
    assert len(names) == 2
    assert code == 143, error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
