"""The whole chain in small: every step from nothing, a page at the end. Slow: it renders a thousand scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

import jointnet
from jointnet.cli.main import main
from jointnet.demo.bundled import BUILD_STEPS, BUNDLED, WEIGHTS
from jointnet.demo.measure.pictures import generated
from jointnet.demo.measure.report import write_report
from jointnet.demo.measure.run import MeasureConfig, measure
from jointnet.demo.measure.tasks import TASKS, TaskConfig, measure_task
from jointnet.demo.measure.tasks_report import write_tasks_report
from jointnet.demo.training import chain
from jointnet.demo.training.chain import INSTALLED, Chain, build, install, unpack
from jointnet.errors import ModelFolderError, RunFolderError, UnknownNameError


@pytest.mark.slow
def test_every_step_from_nothing(tmp_path: Path) -> None:
    steps = Chain(tmp_path / "work", budget_minutes=0.05, autoencoder_scenes=200, training_scenes=200)
    steps.judges()
    steps.stage2()
    steps.masked()
    steps.independent()
    steps.tasks()
    steps.regressor()
    steps.rgbdn()
    install(tmp_path / "work", weights=tmp_path / "weights")
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

    assert steps.masked().joint_unet.config.has_masked_input
    assert steps.independent().joint_unet.config.has_independent_timesteps
    assert jointnet.load(tmp_path / "weights" / "rgbdn").modalities == ("rgb", "depth", "normal")

    before = (tmp_path / "work" / "stage2" / "model" / "joint_unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    steps.stage2()
    after = (tmp_path / "work" / "stage2" / "model" / "joint_unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert before == after
    assert torch.equal(steps.stage1().unet.conv_in.weight, steps.base().unet.conv_in.weight)

    config = TaskConfig(num_scenes=20, steps=2, ensemble=2)
    figures = {name: measure_task(name, tmp_path / "pictures", steps, config) for name in TASKS}
    assert figures["known-pixels"]["rows"]["largest difference"] == 0
    assert 0 < figures["refinement"]["rows"]["degraded"]["abs_rel"] < 0.1  # exact depth but for its edges, whatever the models learnt
    write_tasks_report(figures, tmp_path / "tasks.md", "Notes.")
    page = (tmp_path / "tasks.md").read_text()
    assert page.count("\n## ") == len(TASKS)
    assert page.endswith("Notes.\n")

    counts = MeasureConfig(num_prompts=20, num_images=100, steps=2, num_bootstrap=5, num_validation=20, guidances=(1, 4))
    measured = measure(tmp_path / "pictures", steps.judges(), counts, tmp_path / "grid.png")
    assert measured["depth"]["generated depth"]["images"] + measured["depth"]["generated depth"]["skipped"] == 20
    assert measured["distance"]["autoencoded renders"]["fd"]["value"] < measured["distance"]["joint"]["fd"]["value"]
    assert len({row["abs_rel"] for row in measured["sampling"]}) == len(measured["sampling"]) == 4
    write_report(measured, tmp_path / "demo-model.md", "Notes.")
    assert "| demo | DDIM | 3 | " in (tmp_path / "demo-model.md").read_text()


def test_unknown_steps_and_unfinished_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'stage9'; expected some of scenes"):
        build(tmp_path, ("stage9",))
    with pytest.raises(ModelFolderError, match="no finished model of rgbdn in"):
        install(tmp_path, ("rgbdn",))
    assert BUILD_STEPS[0] == "scenes"


def test_the_packages_models_count_as_finished_steps(tmp_path: Path) -> None:
    unpack(tmp_path, besides=("tasks",))
    assert not (tmp_path / "tasks").exists()
    unpack(tmp_path, besides=("tasks",))  # they are the package's own already
    assert Chain(tmp_path).autoencoder().config.latent_channels == 8
    assert Chain(tmp_path).stage2().modalities == ("rgb", "depth")
    (tmp_path / "base" / "model" / "provenance.json").write_text('{"recipe": "another"}')
    with pytest.raises(RunFolderError, match="another model than the package's"):
        unpack(tmp_path)
    assert not (tmp_path / "tasks").exists()


def test_only_the_steps_that_were_asked_for_are_installed(tmp_path: Path) -> None:
    unpack(tmp_path / "work")
    install(tmp_path / "work", ("tasks", "regressor"), tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["tasks"]


def test_the_command_starts_from_the_packages_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "build", "base", "stage9", "--bundled", "--work", str(tmp_path / "work")]) == 2
    assert "got build step 'stage9'" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    root = tmp_path / "work"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chain, "build", lambda *_: None)  # all steps would train for hours
        assert main(["demo", "build", "--bundled", "--work", str(root)]) == 0
    finished = {path.parent.parent.name for path in root.glob("*/model/provenance.json")}
    there = {step for step, name in INSTALLED.items() if (WEIGHTS / BUNDLED[name]).is_dir()}
    assert finished == {"autoencoder", *there}
    assert there >= {"base", "stage2", "tasks"}  # the model of three maps is in no archive
    assert main(["demo", "build", "autoencoder", "--bundled", "--work", str(root)]) == 0  # finished: nothing is trained


@pytest.mark.parametrize("command", ["evaluate", "evaluate-tasks"])
def test_measuring_says_what_it_cannot_read_or_does_not_know(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert main(["demo", command, "--notes", str(tmp_path / "no.md"), "--work", str(tmp_path / "work"), "-o", str(page)]) == 2
    assert "cannot read notes" in capsys.readouterr().err
    assert not page.exists()


def test_pictures_of_a_shorter_run_are_not_taken_for_others(tmp_path: Path) -> None:
    network = torch.nn.Identity()

    def make(scenes: slice, generators: list[torch.Generator]) -> dict[str, torch.Tensor]:
        return {"rgb": torch.arange(scenes.start, scenes.stop)[:, None, None, None].expand(-1, 3, 1, 1) / 255}

    for count in (30, 50):
        made = generated(network, make, count, tmp_path, 0)["rgb"]
        assert made[:, 0, 0, 0].tolist() == list(range(count))
