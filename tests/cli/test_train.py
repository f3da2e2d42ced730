from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from PIL import Image

from jointnet.cli.main import main
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import tiny_base
from tests.conftest import tiny_pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with depth as .npy or .png, one caption file with two lines."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(folder / f"{i}.png")
        depth = rng.random((32, 40), np.float32)
        if i % 2:
            np.save(folder / f"{i}.depth.npy", depth)
        else:
            Image.fromarray((depth * 65535).astype(np.uint16)).save(folder / f"{i}.depth.png")
        (folder / f"{i}.txt").write_text("a red ball\na ball\n" if i == 0 else "a box\n")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    pipeline = tiny_pipeline()
    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    StableDiffusionPipeline(
        **parts, unet=pipeline.unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


SHORT = ("--steps", "2", "--batch-size", "2", "--precision", "float32")


def test_both_stages_on_a_folder(data: Path, base: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(one), *SHORT, "--lr", "0.01"]) == 0
    assert main(["train", "stage2", "--from", str(one / "model"), "--data", str(data), "-o", str(two), *SHORT]) == 0
    provenance = json.loads((two / "model" / "provenance.json").read_text())
    assert (provenance["recipe"], provenance["steps"], provenance["samples_seen"]) == ("stage2", 2, 4)
    assert provenance["config"]["text_drop"] == 0.5
    assert provenance["commit"]
    first = JointNetPipeline.from_pretrained(one / "model")
    original = StableDiffusionPipeline.from_pretrained(base).unet
    for name, value in first.unet.state_dict().items():
        assert torch.equal(value, original.state_dict()[name].half().float())
    assert main(["generate", "a red ball", "--model", str(two / "model"), "--steps", "1", "-o", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "1.txt").unlink(), "no caption for 1.png"),
        (lambda d: (d / "1.depth.npy").unlink(), "no depth for 1.png"),
        (lambda d: np.save(d / "1.depth.npy", np.random.rand(32, 40, 3)), "a colour picture; expected a greyscale map"),
        (lambda d: np.save(d / "1.depth.npy", np.linspace(0, 7, 32 * 40).reshape(32, 40)), "depth from 0 to 7"),
        (lambda d: [p.unlink() for p in d.iterdir()], "no picture"),
    ],
)
def test_a_bad_data_folder_gets_one_line(spoil, message: str, data: Path, base: Path, tmp_path: Path, capsys) -> None:
    import re

    spoil(data)
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(tmp_path / "run"), *SHORT]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run" / "model").exists()


def test_a_thin_branch_learns_from_a_model(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    taught = ["--data", str(data), "--steps", "2", "--batch-size", "2"]
    assert main(["train", "stage1", "--from", str(base), *taught, "-o", str(tmp_path / "full")]) == 0
    teacher = ["--teacher", str(tmp_path / "full" / "model")]
    command = ["train", "stage1", "--from", str(base), *taught, *teacher, "--set", "branch=thin:0.5", "-o", str(tmp_path / "thin")]
    assert main(command) == 0
    thin = JointNetPipeline.from_pretrained(tmp_path / "thin" / "model")
    assert thin.joint_unet.config.branch == "thin:0.5"
    widths = [thin.joint_unet.branch(name).config.block_out_channels[0] for name in thin.modalities]
    assert widths[1] < widths[0]
    assert main([*command[:-4], "--set", "branch=thinner", "-o", str(tmp_path / "none")]) == 2
    assert "expected one of full, lora:RANK, thin:SHARE" in capsys.readouterr().err
    changed = ["--from", str(tmp_path / "thin" / "model"), *taught, "--set", "branch=lora:2", "-o", str(tmp_path / "none")]
    assert main(["train", "stage2", *changed]) == 2
    assert "whose branches are thin:0.5" in capsys.readouterr().err


def test_a_distilled_model_draws_in_few_steps(data: Path, base: Path, tmp_path: Path) -> None:
    first, few = tmp_path / "first", tmp_path / "few"
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(first), *SHORT]) == 0
    assert main(["train", "few-steps", "--from", str(first / "model"), "--data", str(data), "-o", str(few), *SHORT]) == 0
    pipeline = JointNetPipeline.from_pretrained(few / "model")
    assert isinstance(pipeline.scheduler, LCMScheduler)
    assert (pipeline.config.default_guidance, pipeline.config.default_steps) == (1.0, 4)
    assert main(["generate", "a red ball", "--model", str(few / "model"), "-o", str(tmp_path / "out")]) == 0
    sampling = json.loads((tmp_path / "out" / "result.json").read_text())["sampling"]
    assert (sampling["num_inference_steps"], sampling["guidance_scale"]) == (4, 1.0)


def test_a_thin_branch_and_its_teacher_are_planned(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    full = tmp_path / "full"
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(full), *SHORT]) == 0
    plan = ["train", "stage1", "--from", str(base), "--data", str(data), "--set", "branch=thin:0.5", *SHORT, "--dry-run"]
    for more in ([], ["--teacher", str(full / "model")]):
        capsys.readouterr()
        assert main([*plan, *more, "-o", str(tmp_path / "plan"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["branch"] == "thin:0.5"
    assert main([*plan, "--teacher", str(base), "-o", str(tmp_path / "plan")]) == 2


def test_a_distilled_model_is_no_start_and_takes_no_speed(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "distilled"
    pipeline = JointNetPipeline.from_base(base)
    pipeline.register_to_config(default_steps=4)
    pipeline.save_pretrained(folder)
    assert main(["train", "stage2", "--from", str(folder), "--data", str(data), *SHORT, "-o", str(tmp_path / "none")]) == 2
    assert "distilled to 4 steps; start from" in capsys.readouterr().err
    assert main(["generate", "a red ball", "--model", str(folder), "--speed", "fast", "-o", str(tmp_path / "none")]) == 2
    assert "distilled to 4 steps" in capsys.readouterr().err


def test_a_model_that_predicts_in_one_step(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    first, one = tmp_path / "first", tmp_path / "one"
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(first), *SHORT]) == 0
    command = ["train", "one-step", "--from", str(first / "model"), "--data", str(data), *SHORT]
    assert main([*command, "-o", str(one)]) == 0
    pipeline = JointNetPipeline.from_pretrained(one / "model")
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert main(["predict", str(data / "1.png"), "--model", str(one / "model"), "-o", str(tmp_path / "out")]) == 0
    sampling = json.loads((tmp_path / "out" / "result.json").read_text())["sampling"]
    assert sampling["num_inference_steps"] == 1
    assert main([*command, "--set", "teacher_steps=50", "-o", str(tmp_path / "none")]) == 2
    assert "predicts_in_one_step with teacher_steps" in capsys.readouterr().err


def test_an_unknown_modality_is_named(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    arguments = ["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(tmp_path / "run"), "--modalities", "rgb,heat"]
    assert main(arguments) == 2
    assert "got modality 'heat'" in capsys.readouterr().err


def test_a_start_of_another_kind_or_of_other_modalities_is_refused(
    data: Path, base: Path, model_folder: Path, tmp_path: Path, capsys
) -> None:
    def refused(start: Path, *more: str) -> str:
        assert main(["train", "stage1", "--from", str(start), "--data", str(data), "-o", str(tmp_path / "run"), *more]) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        return error

    assert "got --modalities rgb,normal for a model of rgb,depth" in refused(model_folder, "--modalities", "rgb,normal")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusion3Pipeline"}))
    error = refused(other)
    assert "got a StableDiffusion3Pipeline; expected one of StableDiffusionPipeline (Stable Diffusion 1.x and 2.x), " in error


def test_what_disparity_means_is_stated_for_the_data_and_kept_on_it_only(data: Path, base: Path, tmp_path: Path) -> None:
    def near_m(start: Path, of: Path, *more: str) -> float | None:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        assert main(["train", "stage1", "--from", str(start), "--data", str(of), "-o", str(out), *SHORT, *more]) == 0
        return JointNetPipeline.from_pretrained(out / "model").config.depth_near_m

    runs = set(tmp_path.iterdir())
    assert near_m(base, data, "--depth-near", "2") == 2
    (first,) = set(tmp_path.iterdir()) - runs
    assert near_m(first / "model", data) == 2
    shutil.copytree(data, tmp_path / "other")
    assert near_m(first / "model", tmp_path / "other") == 2, "the same maps in another place"
    np.save(tmp_path / "other" / "1.depth.npy", np.random.default_rng(1).random((32, 40), np.float32))
    assert near_m(first / "model", tmp_path / "other") is None
    assert near_m(base, data) is None


def test_a_size_that_the_base_does_not_take_is_refused_before_anything_is_encoded(data: Path, tmp_path: Path, capsys) -> None:
    tiny_base("if-1").save_pretrained(tmp_path / "if")
    out = tmp_path / "out"
    assert main(["train", "stage1", "--from", str(tmp_path / "if"), "--data", str(data), "--size", "20", "-o", str(out), *SHORT]) == 2
    assert "expected multiples of 8" in capsys.readouterr().err
    assert not (out / "latents").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(data: Path, base: Path, tmp_path: Path) -> None:
    def train(run: str, steps: str) -> dict[str, torch.Tensor]:
        arguments = ["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(tmp_path / run)]
        assert main([*arguments, *SHORT, "--lr", "0.01", "--steps", steps]) == 0
        return JointNetPipeline.from_pretrained(tmp_path / run / "model").joint_unet.state_dict()

    whole, part = train("whole", "3"), train("cut", "1")
    resumed = train("cut", "3")
    assert not all(torch.equal(part[name], value) for name, value in whole.items())
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["config"]["optim"]["lr"] == 0.01


def test_a_folder_of_another_run_is_refused(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main(["train", "stage1", "--from", str(base), "--data", str(data), "-o", str(run), *SHORT]) == 0
    capsys.readouterr()
    model = (run / "model" / "joint_unet" / "config.json").stat().st_mtime_ns
    start = shutil.copytree(run / "model", tmp_path / "start")
    for recipe in ("stage2", "masked"):
        assert main(["train", recipe, "--from", str(start), "--data", str(data), "-o", str(run), *SHORT]) == 2
        assert f"holds another run (recipe stage1, now {recipe}; start" in capsys.readouterr().err
    assert (run / "model" / "joint_unet" / "config.json").stat().st_mtime_ns == model


def test_a_run_that_diverges_gets_one_line(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    spoilt = StableDiffusionPipeline.from_pretrained(base)
    spoilt.unet.conv_out.weight.data.fill_(torch.inf)
    spoilt.save_pretrained(tmp_path / "spoilt")
    assert main(["train", "stage1", "--from", str(tmp_path / "spoilt"), "--data", str(data), "-o", str(tmp_path / "run"), *SHORT]) == 2
    assert "in all 2 steps, so nothing was learned" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def refused(arguments: list[str], of: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a training that must not change anything below ``of``; return its one line."""
    before = {path: path.read_bytes() if path.is_file() else b"" for path in sorted(of.rglob("*"))}
    capsys.readouterr()
    assert main(["train", "stage1", *arguments, *SHORT]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() if path.is_file() else b"" for path in sorted(of.rglob("*"))} == before
    return error


@pytest.mark.parametrize(
    "name", ["run.json", ".lock", "latents/00000.safetensors", "latents/files.sqlite", "state.safetensors", "model/a.txt"]
)
def test_a_folder_of_the_users_with_our_names_is_refused_before_the_model_is_opened(
    name: str, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("mine")
    (base / "unet" / "config.json").unlink()  # opening it is an error
    error = refused(["--from", str(base), "--data", str(data), "-o", str(tmp_path / "mine")], tmp_path, capsys)
    assert "another folder" in error or "new folder" in error
    assert str(tmp_path / "mine") in error


@pytest.mark.parametrize("output", ["base", "base/unet/run", "data", "link"])
def test_a_run_does_not_write_among_what_it_reads(
    output: str, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(data)
    error = refused(["--from", str(base), "--data", str(data), "-o", str(tmp_path / output)], tmp_path, capsys)
    assert "which holds what the run reads; choose a new folder with -o" in error


@pytest.mark.parametrize("place", ["model/images", "latents"])
def test_data_do_not_lie_in_what_a_run_replaces(
    place: str, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "run" / place)
    error = refused(["--from", str(base), "--data", str(tmp_path / "run" / place), "-o", str(tmp_path / "run")], tmp_path, capsys)
    assert "which holds what the run reads" in error


@pytest.mark.parametrize("spoil", [lambda d: (d / "1.txt").unlink(), lambda d: np.save(d / "1.depth.npy", np.full((32, 40), 7.0))])
def test_a_refused_run_leaves_nothing_in_the_users_folder(
    spoil, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for output in ("mine", "mine/new/run"):
        refused(["--from", str(base), "--data", str(data), "-o", str(tmp_path / output)], tmp_path, capsys)
