"""The models in the package: they are there, small, say where they come from, and need no network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

import jointnet
from jointnet.cli.main import main
from jointnet.demo.bundled import BUNDLED, WEIGHTS, bundled_folder
from jointnet.demo.measure.figures import depth_agreement
from jointnet.demo.measure.pictures import held_out
from jointnet.evaluation.metrics.normal import angles_deg
from tests.conftest import read_png

THERE = [name for name, folder in BUNDLED.items() if (WEIGHTS / folder).is_dir()]
"""Of those in no archive, the model of three maps, only a clone has the weights."""


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_base_and_joint_model_fit_into_56_mib() -> None:
    assert size_of(bundled_folder("demo-base")) + size_of(bundled_folder("demo")) <= 56 * 2**20


def test_the_model_for_the_tasks_adds_at_most_36_mib() -> None:
    assert size_of(bundled_folder("demo-tasks")) <= 36 * 2**20


@pytest.mark.parametrize("name", THERE)
def test_every_model_says_how_it_was_made(name: str) -> None:
    provenance = json.loads((bundled_folder(name) / "provenance.json").read_text())
    assert {"recipe", "machine", "config"} <= set(provenance)
    assert re.fullmatch("[0-9a-f]{40}", provenance["commit"])
    optim = provenance["config"].get("optim", provenance["config"])
    assert provenance["samples_seen"] == provenance["steps"] * optim["batch_size"]
    assert provenance["seconds"] > 0
    curve = provenance["loss_curve"]
    assert all(0 < row["loss"] < 1 for row in curve)
    assert [row["step"] for row in curve] == sorted(row["step"] for row in curve)


@pytest.mark.parametrize("name", THERE)
def test_text_weights_have_the_names_that_every_version_of_transformers_reads(name: str) -> None:
    with safe_open(bundled_folder(name) / "text_encoder" / "model.safetensors", "pt") as file:
        assert {key.split(".")[0] for key in file.keys()} == {"text_model"}  # noqa: SIM118 - not a dict


@pytest.mark.parametrize("name", THERE)
def test_no_file_names_a_folder_of_the_machine_it_was_made_on(name: str) -> None:
    for path in bundled_folder(name).rglob("*.json"):
        assert "_name_or_path" not in path.read_text(), path


def test_the_base_is_a_genuine_stable_diffusion_folder() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(bundled_folder("demo-base"), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(0)
    image = np.asarray(pipeline("a large red ball on grass under a blue sky", num_inference_steps=10, generator=g).images[0], np.float32)
    assert image.shape == (128, 128, 3)
    floor, sky = image[100:].mean((0, 1)), image[:20].mean((0, 1))
    assert floor[1] > floor[2], "grass is greener than blue"
    assert sky[2] > sky[0], "the sky is bluer than red"


@pytest.mark.parametrize("name", ["demo", "demo-tasks"])
def test_a_joint_model_draws_depth_that_falls_towards_the_horizon(name: str) -> None:
    pipeline = jointnet.load(name)
    pipeline.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(0)
    depth = pipeline("a small blue box on sand under a blue sky", num_inference_steps=10, generator=g).depth[0]
    assert depth[110:].mean() > depth[70:80].mean() > depth[:20].mean()
    assert abs(depth[:20].mean()) < 0.1, "the sky is infinitely far"


def test_the_model_for_the_tasks_has_both_ways_and_reads_depth_off_an_image() -> None:
    pipeline = jointnet.load("demo-tasks")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.joint_unet.config.has_masked_input
    assert pipeline.joint_unet.config.has_independent_timesteps
    scenes = held_out(4)
    options = {"num_inference_steps": 5, "output_type": "pt", "generator": [torch.Generator().manual_seed(i) for i in range(4)]}
    depth = pipeline.predict(scenes.rgb, **options).depth
    own, other = (depth_agreement(depth, truth)["abs_rel"] for truth in (scenes.disparity01, scenes.disparity01.roll(1, 0)))
    assert own < other / 2
    images = pipeline.condition([c.text for c in scenes.captions], dense={"depth": scenes.disparity01}, **options).images
    errors = torch.stack([(images - truth).abs().mean((1, 2, 3)) for truth in (scenes.rgb, scenes.rgb.roll(1, 0))])
    assert errors[0].mean() < errors[1].mean()


def test_the_models_of_the_package_are_there() -> None:
    assert {"demo-base", "demo", "demo-tasks"} <= set(THERE)


@pytest.mark.skipif("demo-rgbdn" not in THERE, reason="only a clone of the repository holds the model of three maps")
def test_the_model_of_three_maps_reads_normals_off_an_image() -> None:
    pipeline = jointnet.load("demo-rgbdn")
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out(4)
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    normal = pipeline.predict(scenes.rgb, num_inference_steps=10, output_type="pt", generator=generators).normal

    def error_deg(truth: torch.Tensor) -> float:
        return float(np.mean([angles_deg(p, n, n.norm(dim=0) > 0.5).mean() for p, n in zip(normal, truth, strict=True)]))

    assert error_deg(scenes.normal) < error_deg(scenes.normal.roll(1, 0)) / 2


def test_a_seed_gives_identical_files(tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert main(["generate", "a red ball on grass", "--seed", "7", "--steps", "3", "-o", str(tmp_path / out)]) == 0
    for name in ("image.png", "depth.png", "depth.npy", "depth_preview.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert read_png(tmp_path / "a" / "image.png").shape == (128, 128, 3)


def test_words_the_model_never_saw_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red elephant on grass", "--steps", "1", "-o", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert "never saw the words elephant; it knows" in error
    assert "checkered floor" in error or "checkered" in error
