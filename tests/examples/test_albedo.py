"""examples/albedo.py: a modality of a user's own, from its data folder to pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jointnet.cli.main import main
from jointnet.cli.plugins import load_plugin
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.loading import load
from tests.bases import tiny_base
from tests.conftest import read_png

EXAMPLE = Path(__file__).parents[2] / "examples" / "albedo.py"


@pytest.fixture
def example(registry: None) -> ModuleType:
    """The example as the command runs it."""
    return load_plugin(EXAMPLE)


@pytest.mark.slow
def test_it_is_trained_and_measured_in_two_steps(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, base, run, out = (tmp_path / name for name in ("data", "base", "run", "out"))
    data.mkdir()
    for seed in range(4):
        example.write_scene(seed, data, 32)
    tiny_base("sd2").save_pretrained(base)
    plugin = ["--plugin", str(EXAMPLE)]
    words = ["--from", str(base), "--modalities", "rgb,albedo", "--data", str(data), "--size", "32", "--precision", "float32"]
    assert main([*plugin, "train", "demo-stage1", *words, "--steps", "2", "--batch-size", "2", "--log-every", "1", "-o", str(run)]) == 0
    assert example.losses(run)["last"] > 0
    sampling = ["--model", str(run / "model"), "--size", "32x32", "--steps", "2", "-o", str(out)]
    assert main([*plugin, "generate", "a red ball on grass", *sampling]) == 0
    assert read_png(out / "albedo.png").shape == (32, 32, 3)
    capsys.readouterr()

    pipe = load(run / "model")
    pipe.set_progress_bar_config(disable=True)
    figures, rows = example.measure(pipe, 2, size=32, steps=2)
    assert all(np.isfinite(value) for group in figures.values() for value in group.values())
    assert example.sheet(rows).size == (64, 160)


def test_its_albedo_is_the_colour_of_the_surface_only(example: ModuleType) -> None:
    """Inside a solid one colour, the solid's own; the same with any light; the sky as it is seen."""
    scene = next(s for s in map(sample_scene, range(100)) if s.room is None and s.setting == "blue sky")
    image, albedo = example.image_and_albedo(scene.seed, 64)
    seen = render(scene, 64)
    for index, solid in enumerate(scene.solids):
        mine = np.abs(albedo - np.array(solid.albedo, np.float32)).max(-1) < 1e-6
        assert (seen.solid == index).sum() > 20
        assert mine[seen.solid == index].mean() > 0.7, "all but its edges"
    moved = replace(scene, light=replace(sample_scene(scene.seed + 1).light, ambient=(0.1, 0.1, 0.1)))
    assert np.array_equal(render(replace(moved, light=None), 64).rgb, albedo)
    sky = (seen.disparity01 == 0) & (np.roll(seen.disparity01, -1, 0) == 0)
    assert sky.any()
    assert np.array_equal(image[sky], albedo[sky])
    assert not np.allclose(image[~sky], albedo[~sky], atol=0.05)


@pytest.mark.slow
def test_it_trains_to_a_visible_result(tmp_path: Path) -> None:
    """All of it as a user runs it, 20 minutes on two cores."""
    subprocess.run([sys.executable, EXAMPLE, "-o", tmp_path], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    loss, error, correlation = figures["loss"], figures["error"], figures["correlation"]
    assert loss["last"] < 0.75 * loss["first"]
    floors = error["the image as it is"], error["exact albedo of another scene"]
    assert error["predicted from the image"] < 0.5 * min(floors)
    drawn, of_another = correlation["drawn image and its albedo"], correlation["drawn image and another one's albedo"]
    assert drawn > 0.6
    assert drawn > of_another + 0.3
