"""The whole chain in small: every step from nothing, a page at the end. Slow: it renders a thousand scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

import jointnet
from jointnet.demo.bundled import BUILD_STEPS
from jointnet.demo.measure.report import write_report
from jointnet.demo.measure.run import MeasureConfig, measure
from jointnet.demo.measure.tasks import TASKS, TaskConfig, measure_task
from jointnet.demo.measure.tasks_report import write_tasks_report
from jointnet.demo.training.chain import Chain, build, install, unpack
from jointnet.errors import ModelFolderError, UnknownNameError


@pytest.mark.slow
def test_every_step_from_nothing(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "work", budget_minutes=0.05, autoencoder_scenes=1000, training_scenes=1000)
    chain.judges()
    chain.stage2()
    chain.masked()
    chain.independent()
    chain.tasks()
    chain.regressor()
    chain.rgbdn()
    install(tmp_path / "work", tmp_path / "weights")
    for name in ("base", "rgbd", "tasks", "rgbdn"):
        provenance = json.loads((tmp_path / "weights" / name / "provenance.json").read_text())
        assert provenance["steps"] > 0
        phases = [provenance, *(provenance[f"{name}_phase"] for name in ("noise", "v") if f"{name}_phase" in provenance)]
        assert sum(phase["seconds"] for phase in phases) >= 3
    base = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "base")
    base.set_progress_bar_config(disable=True)
    assert base("a red ball", num_inference_steps=2).images[0].size == (128, 128)
    joint = jointnet.load(tmp_path / "weights" / "rgbd")
    joint.set_progress_bar_config(disable=True)
    assert joint.config.depth_near_m == 1.5
    assert joint("a red ball", num_inference_steps=2).depth.shape == (1, 128, 128)
    assert (tmp_path / "weights" / "rgbd" / "vocabulary.json").exists()

    assert chain.masked().joint_unet.config.has_masked_input
    assert chain.independent().joint_unet.config.has_independent_timesteps
    assert jointnet.load(tmp_path / "weights" / "rgbdn").modalities == ("rgb", "depth", "normal")

    before = (tmp_path / "work" / "stage2" / "model" / "joint_unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    chain.stage2()
    after = (tmp_path / "work" / "stage2" / "model" / "joint_unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert before == after
    assert torch.equal(chain.stage1().unet.conv_in.weight, chain.base().unet.conv_in.weight)

    config = TaskConfig(num_scenes=20, steps=2, ensemble=2)
    figures = {name: measure_task(name, tmp_path / "pictures", chain, config) for name in TASKS}
    assert figures["known-pixels"]["rows"]["largest difference"] == 0
    assert 0 < figures["refinement"]["rows"]["degraded"]["abs_rel"] < 0.1  # exact depth but for its edges, whatever the models learnt
    write_tasks_report(figures, tmp_path / "tasks.md", "Notes.")
    page = (tmp_path / "tasks.md").read_text()
    assert page.count("\n## ") == len(TASKS)
    assert page.endswith("Notes.\n")

    counts = MeasureConfig(num_prompts=20, num_images=100, steps=2, num_bootstrap=5, num_validation=20, guidances=(1, 4))
    measured = measure(tmp_path / "pictures", chain.judges(), counts, tmp_path / "grid.png")
    assert measured["depth"]["generated depth"]["images"] + measured["depth"]["generated depth"]["skipped"] == 20
    assert measured["distance"]["autoencoded renders"]["fd"]["value"] < measured["distance"]["joint"]["fd"]["value"]
    assert measured["guidances"]["1"] != measured["guidances"]["4"]
    write_report(measured, tmp_path / "demo-model.md", "Notes.")
    assert "| 4 | " in (tmp_path / "demo-model.md").read_text().split("## Which guidance scale")[1]


def test_unknown_steps_and_unfinished_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'stage9'; expected some of scenes"):
        build(tmp_path, ("stage9",))
    with pytest.raises(ModelFolderError, match="jointnet demo build"):
        install(tmp_path)
    assert BUILD_STEPS[0] == "scenes"


def test_the_packages_models_count_as_finished_steps(tmp_path: Path) -> None:
    finished = tmp_path / "base" / "model"
    finished.mkdir(parents=True)
    unpack(tmp_path, besides=("tasks",))
    assert not list(finished.iterdir())
    assert not (tmp_path / "tasks").exists()
    assert Chain(tmp_path).autoencoder().config.latent_channels == 8
    assert Chain(tmp_path).stage2().modalities == ("rgb", "depth")
