"""What jointnet train takes as data, as a recipe, and what it shows while it trains."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jointnet.cli.main import main
from jointnet.data.latents import LatentStore
from jointnet.training.state import read_progress
from tests.cli.test_train import SHORT, base, data

__all__ = ["base", "data"]


def train(base: Path, data: str | Path, run: Path, *more: str) -> int:
    return main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(run), *SHORT, "--size", "32", *more])


def test_photos_without_maps_are_labelled(data: Path, base: Path, tmp_path: Path) -> None:
    for path in data.glob("*.depth.*"):
        path.unlink()
    assert train(base, data, tmp_path / "run", "--label", "depth=tests.data.labelers.own:red") == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["labels"].keys() == {"depth"}
    assert facts["data"].keys() == {"captions", "rgb"}


def test_shards_and_the_demo_world_are_read_as_they_come(data: Path, base: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for path in sorted(data.iterdir()):
            tar.add(path, path.name)
    for name, source in (("shards", tmp_path / "0.tar"), ("world", "demo-world")):
        assert train(base, source, tmp_path / name, "--validation-prompt", "a red ball", "--validate-every", "2") == 0
        run = tmp_path / name
        assert json.loads((run / "run.json").read_text())["config"]["caches_latents"] is False
        assert not list(run.glob("latents/*.safetensors"))
        with Image.open(run / "validation" / "step-00000002.png") as sheet:
            assert sheet.size == (64, 32), "a picture and its depth"


def test_aspect_buckets_are_filled_from_shards(data: Path, base: Path, tmp_path: Path) -> None:
    for name in "23":
        with Image.open(data / f"{name}.png") as image:
            image.resize((20, 38)).save(data / f"{name}.png")
        Image.fromarray(np.arange(760, dtype=np.uint16).reshape(38, 20)).save(data / f"{name}.depth.png")
        (data / f"{name}.depth.npy").unlink(missing_ok=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with tarfile.open(foreign / "0.tar", "w") as tar:
        for path in sorted(data.iterdir()):
            tar.add(path, path.name)
    assert main(["data", "build", str(data), "--maps", "depth", "--workers", "0", "-o", str(tmp_path / "built")]) == 0
    sizes, encoded = [], []
    for source in (data, foreign, tmp_path / "built"):
        run = tmp_path / f"run-{source.name}"
        assert train(base, source, run, "--set", "has_aspect_buckets=true", "--set", "caches_latents=true") == 0
        store = LatentStore(run / "latents", 4, ("rgb", "depth"), "")
        sizes.append([store.row(row).size for row in range(4)])
        (file,) = run.glob("latents/*.safetensors")
        encoded.append(load_file(file)["rgb"])
    assert sizes[0] == sizes[1] == sizes[2]
    assert len({*sizes[0]}) == 2
    assert torch.equal(encoded[0], encoded[1])
    assert torch.equal(encoded[0], encoded[2])
    assert train(base, foreign, tmp_path / "streamed", "--set", "has_aspect_buckets=true") == 0


def test_what_is_no_data_set_gets_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, expected in (("nothing", "which is no folder"), (str(tmp_path / "no.tar"), "no.tar")):
        capsys.readouterr()
        assert train(base, given, tmp_path / "run") == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(lines) == 1
        assert expected in lines[0]
        assert not (tmp_path / "run").exists()


def test_a_recipe_comes_from_a_file_and_any_field_from_the_command(data: Path, base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('recipe = "stage1"\nsteps = 2\nbatch_size = 2\nprecision = "float32"\nmin_snr_gamma = 5\n[optim]\nwarmup_steps = 1\n')
    arguments = ["train", str(recipe), "--from", str(base), "--data", str(data), "-o", str(tmp_path / "run"), "--size", "32"]
    assert main([*arguments, "--set", "text_drop=0.5", "--set", "ema_decay=0.9", "--set", "has_aspect_buckets=true"]) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["recipe"] == "mine"
    config, optim = facts["config"], facts["config"]["optim"]
    assert (config["text_drop"], config["min_snr_gamma"], config["has_aspect_buckets"]) == (0.5, 5.0, True)
    assert (optim["ema_decay"], optim["warmup_steps"], optim["steps"]) == (0.9, 1, 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "txt_drop=0.5"], "got setting 'txt_drop'; expected one of lr, batch_size"),
        (["--set", "text_drop=lots"], "got text_drop = 'lots'; expected float"),
        (["--set", "text_drop=2"], "got text_drop = 2.0, expected a share in [0, 1]"),
        (["--set", "crop=left"], "got crop = 'left'; expected centre or random"),
        (["--set", "text_drop"], "expected NAME=VALUE"),
        (["--label", "depth=nobody"], "got labeler 'nobody'; expected one of"),
        (["--label", "depth=midas:/nowhere"], "nowhere"),
        (["--label", "albedo=tests.data.labelers.own:red"], "albedo"),
        (["--max-bad", "lots"], "got share 'lots'"),
        (["--save-every", "soon"], "got 'soon'; expected steps"),
        (["--micro-batch", "3"], "expected a multiple of 3"),
    ],
)
def test_bad_settings_get_one_line(
    words: list[str], expected: str, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(base, data, tmp_path / "run", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower() and "jointnet" in line]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not (tmp_path / "run" / "model").exists()


def test_steps_and_minutes_between_states(data: Path, base: Path, tmp_path: Path) -> None:
    for every in ("1", "0.001m"):
        run = tmp_path / every
        assert train(base, data, run, "--save-every", every, "--keep-states", "2", "--log-every", "1") == 0
        assert read_progress(run, {}).step == 2
        assert (run / "loss.csv").exists()
