"""Of several inputs, a result that is there already is kept if settings and contents are the same, whatever dates files have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from jointnet.cli.main import main
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import tiny_base

Again = Callable[..., int]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def depth(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).uniform(0.2, 1, (32, 32)).astype(np.float32))
    return path


def with_old_dates(path: Path, change: Callable[[Path], Any]) -> None:
    """Change a file's content and set its date back, as a copy that keeps dates does."""
    facts = path.stat()
    change(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def change_weights(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: value + 0.01 for name, value in tensors.items()}, path, {"format": "pt"})


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Again:
    """Run a command and return how many results it sampled."""
    runs: list[int] = []
    run = JointNetPipeline.run
    monkeypatch.setattr(JointNetPipeline, "run", lambda pipe, request: runs.append(1) or run(pipe, request))

    def count(*words: str | Path, code: int = 0) -> int:
        runs.clear()
        assert main([*map(str, words), "--steps", "1"]) == code, capsys.readouterr().err
        return len(runs)

    return count


@pytest.fixture
def two(tmp_path: Path, model_folder: Path) -> list[str | Path]:
    """A command on two pictures, with a model of its own."""
    shutil.copytree(model_folder, tmp_path / "model")
    paths = [picture(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate("ab")]
    return ["predict", *paths, "--model", tmp_path / "model", "-o", tmp_path / "out"]


def test_a_changed_weight_is_noticed_though_the_index_is_the_same(two: list[str | Path], again: Again, tmp_path: Path) -> None:
    assert again(*two) == 2
    assert again(*two) == 0
    with_old_dates(tmp_path / "model" / "joint_unet" / "diffusion_pytorch_model.safetensors", change_weights)
    assert again(*two) == 2
    assert again(*two) == 0


def test_a_copy_of_the_same_model_is_the_same(two: list[str | Path], again: Again, tmp_path: Path) -> None:
    assert again(*two) == 2
    shutil.move(tmp_path / "model", tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "model", copy_function=shutil.copyfile)
    assert again(*two) == 0


def test_an_input_is_known_by_its_content(two: list[str | Path], again: Again, tmp_path: Path) -> None:
    assert again(*two) == 2
    (tmp_path / "in" / "a.png").touch()
    assert again(*two) == 0
    with_old_dates(tmp_path / "in" / "a.png", lambda path: picture(path, 5))
    assert again(*two) == 1


def test_a_map_that_belongs_to_an_input_is_known_by_its_content(again: Again, model_folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        picture(tmp_path / "images" / f"{name}.png", seed)
        depth(tmp_path / "depths" / f"{name}.npy", seed)
    words = ["refine", "--image", tmp_path / "images", "--depth", tmp_path / "depths", "--only", "depth", "--model", model_folder]
    words += ["-o", tmp_path / "out"]
    assert again(*words) == 2
    assert again(*words) == 0
    with_old_dates(tmp_path / "depths" / "b.npy", lambda path: depth(path, 7))
    assert again(*words) == 1


def test_smaller_maps_are_known_by_their_content(again: Again, tmp_path: Path) -> None:
    JointNetPipeline.from_base(tiny_base("if-2")).save_pretrained(tmp_path / "model")
    picture(tmp_path / "small" / "image.png")
    depth(tmp_path / "small" / "depth.npy")
    paths = [depth(tmp_path / "in" / f"{name}.npy", seed) for seed, name in enumerate("ab")]
    words = ["condition", *paths, "--prompt", "a", "--model", tmp_path / "model", "--low-res", tmp_path / "small", "-o", tmp_path / "out"]
    assert again(*words) == 2
    assert again(*words) == 0
    with_old_dates(tmp_path / "small" / "image.png", lambda path: picture(path, 5))
    assert again(*words) == 2


def test_a_result_whose_file_was_changed_is_not_kept(two: list[str | Path], again: Again, tmp_path: Path) -> None:
    assert again(*two) == 2
    with_old_dates(tmp_path / "out" / "a" / "depth.npy", lambda path: depth(path, 9))
    mine = (tmp_path / "out" / "a" / "depth.npy").read_bytes()
    assert again(*two, code=2) == 0
    assert (tmp_path / "out" / "a" / "depth.npy").read_bytes() == mine


def test_another_near_distance_of_the_inputs_world_is_noticed(again: Again, model_folder: Path, tmp_path: Path) -> None:
    """What nothing says any more that it is of the model's world gets no unit."""
    pipeline = JointNetPipeline.from_pretrained(model_folder)
    pipeline.register_to_config(depth_near_m=1.5)
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocabulary.json").write_text(json.dumps({"words": ["a"]}))
    data = tmp_path / "data"
    assert main(["demo", "scene", "--num", "2", "--size", "32", "-o", str(data)]) == 0
    words = ["predict", *sorted(data.glob("*.png")), "--model", tmp_path / "model", "-o", tmp_path / "out"]
    assert again(*words) == 2
    assert again(*words) == 0
    (data / "result.json").unlink()
    assert again(*words) == 2
