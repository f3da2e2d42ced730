from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler
from safetensors.torch import load_file

import jointnet
from jointnet.checkpoints.folder import replacing
from jointnet.cli.main import main
from jointnet.cli.sampling import Run, open_model
from jointnet.demo.bundled import bundled_folder
from jointnet.errors import OutputError
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import tiny_base
from tests.checkpoints.test_release import SAMPLES, Evil
from tests.conftest import tiny_pipeline


def test_the_authors_checkpoint_becomes_a_model_and_again_a_checkpoint(tmp_path: Path) -> None:
    sample = SAMPLES / "inpaint"
    assert main(["convert", "release", str(sample / "release"), "--base", str(sample / "base"), "-o", str(tmp_path / "model")]) == 0
    pipeline = jointnet.load(tmp_path / "model")
    assert pipeline.modalities == ("rgb", "depth")
    assert pipeline.joint_unet.config.has_masked_input
    assert main(["convert", "to-release", str(tmp_path / "model"), "-o", str(tmp_path / "back")]) == 0
    theirs = torch.load(sample / "release" / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    ours = load_file(tmp_path / "back" / "unet" / "diffusion_pytorch_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[k], ours[k]) for k in theirs)


def test_bad_releases_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def convert(folder: Path, *more: str) -> str:
        base = ["--base", str(SAMPLES / "finetune" / "base")]
        assert main(["convert", "release", str(folder), *base, *more, "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        return error

    release = tmp_path / "release"
    shutil.copytree(SAMPLES / "finetune" / "release", release)
    config = release / "unet" / "config.json"
    good = config.read_text()
    config.write_text("[]")
    assert "expected a JointNetModel" in convert(release)
    other = release / "jointnet" / "config.json"
    for path in (config, other):
        path.write_text(json.dumps({**json.loads(good), "block_out_channels": [16]}))
    assert "cannot build the network" in convert(release)
    other.write_text(good)
    config.write_text(good)
    weights = release / "jointnet" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    weights.rename(tmp_path / "aside")
    torch.save(3, pickled)
    assert "without named tensors" in convert(release)
    pickled.unlink()
    (tmp_path / "aside").rename(weights)
    assert "got modality 'heat'" in convert(release, "--modality", "heat")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot read the weights" in convert(release)
    shutil.copy(release / "unet" / weights.name, weights)
    text = (release / "unet" / "config.json").read_text().replace('"has_masked_latent_input": false', '"has_masked_latent_input": true')
    (release / "unet" / "config.json").write_text(text)
    assert "4 missing (jointnet/jointnet_masked_latent_conv.bias" in convert(release)
    weights.unlink()
    assert "got no weights" in convert(release)
    shutil.rmtree(release / "jointnet")
    assert "expected unet/ and jointnet/" in convert(release)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_picture_from_the_authors_checkpoint_by_one_command(form: str, tmp_path: Path) -> None:
    sample = SAMPLES / "finetune"
    model = sample / "release"
    if form == "zip":
        shutil.copytree(model, tmp_path / "in" / "rgbd_finetune_sd21b")
        model = Path(shutil.make_archive(str(tmp_path / "rgbd_finetune_sd21b"), "zip", tmp_path / "in"))
    command = ["generate", "a", "--model", str(model), "--base", str(sample / "base"), "--preset", "release", "--steps", "2"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["sampling"]["conventions"] == "release"
    assert {"image.png", "depth.png", "depth.npy"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.zip").write_text("no zip")
    command = ["generate", "a", "--model", str(tmp_path / "model.zip"), "--base", str(SAMPLES / "finetune" / "base")]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    assert "which is no zip file" in capsys.readouterr().err


def test_info_says_what_a_model_is(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["modalities"] == ["rgb", "depth"]
    assert facts["parameters"]["all"] > facts["parameters"]["joint_unet"] > 0
    assert facts["memory of the weights in MiB"] == {
        name: round(facts["parameters"]["all"] * size / 2**20) for name, size in {"float32": 4, "bfloat16": 2, "float16": 2}.items()
    }
    assert facts["provenance"] == facts["stages"] == "it does not say"
    assert facts["base"] == "a small U-Net of Stable Diffusion's kind, 16-32 channels, text 128 wide"
    assert main(["info", str(model_folder)]) == 0
    assert "modalities: rgb, depth" in capsys.readouterr().out
    assert main(["info", "nowhere"]) == 2
    assert main(["info", "demo-tasks", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stages"] == ["demo-stage1", "demo-tasks"]
    assert facts["provenance"]["samples_seen"] > 0
    assert facts["reads masks"] is facts["independent timesteps"] is True


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error, which is one line."""
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    return error[0]


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("part", ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"])
def test_a_damaged_file_of_a_model_or_a_base_gets_one_line(
    part: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    halve(tmp_path / "model" / part)
    assert main(["info", str(tmp_path / "model")]) == 2
    assert "cannot load the model" in one_line(capsys)
    sample = SAMPLES / "finetune"
    shutil.copytree(sample / "base", tmp_path / "base")
    halve(tmp_path / "base" / part)
    assert main(["convert", "release", str(sample / "release"), "--base", str(tmp_path / "base"), "-o", str(tmp_path / "out")]) == 2
    assert "cannot open the base" in one_line(capsys)


def test_a_pickle_that_holds_code_beside_the_network_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, ran = SAMPLES / "finetune", tmp_path / "ran"
    shutil.copytree(sample / "base", tmp_path / "base")
    (tmp_path / "base" / "text_encoder" / "model.safetensors").unlink()
    torch.save({"weight": Evil(ran)}, tmp_path / "base" / "text_encoder" / "pytorch_model.bin")
    assert main(["convert", "release", str(sample / "release"), "--base", str(tmp_path / "base"), "-o", str(tmp_path / "out")]) == 2
    assert "cannot open the base" in one_line(capsys)
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


def test_branches_of_two_checkpoints_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES / "finetune"
    shutil.copytree(sample / "release", tmp_path / "release")
    path = tmp_path / "release" / "jointnet" / "config.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_head_dim": 2}))
    assert main(["convert", "release", str(tmp_path / "release"), "--base", str(sample / "base"), "-o", str(tmp_path / "out")]) == 2
    assert "configs differ in attention_head_dim" in one_line(capsys)


@pytest.mark.parametrize(("base", "said"), [("sdxl", "a text 64 wide"), ("if-1", "no autoencoder"), (None, "8 latent channels")])
def test_a_base_that_does_not_fit_the_checkpoint_is_refused(
    base: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base" if base else bundled_folder("demo-base")
    if base:
        tiny_base(base).save_pretrained(folder)
    command = ["convert", "release", str(SAMPLES / "finetune" / "release"), "--base", str(folder), "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "out" / "model_index.json").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q", b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR."])
def test_a_damaged_or_evil_pickle_gets_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES / "inpaint"
    shutil.copytree(sample / "release", tmp_path / "release")
    (tmp_path / "release" / "unet" / "diffusion_pytorch_model.bin").write_bytes(content)
    command = ["convert", "release", str(tmp_path / "release"), "--base", str(sample / "base"), "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "diffusion_pytorch_model.bin" in one_line(capsys)


def test_a_damaged_zip_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES / "finetune"
    path = Path(shutil.make_archive(str(tmp_path / "release"), "zip", sample / "release"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert main(["convert", "release", str(path), "--base", str(sample / "base"), "-o", str(tmp_path / "out")]) == 2
    assert "cannot unpack" in one_line(capsys)


def test_what_the_releases_form_cannot_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    independent, three = tiny_pipeline(), tiny_pipeline(("rgb", "depth", "normal"))
    independent.joint_unet.register_to_config(has_independent_timesteps=True)
    for name, pipeline, said in (("independent", independent, "independent timesteps"), ("three", three, "one dense modality")):
        pipeline.save_pretrained(tmp_path / name)
        assert main(["convert", "to-release", str(tmp_path / name), "-o", str(tmp_path / "out")]) == 2
        assert said in one_line(capsys)


def test_a_converted_model_says_where_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES / "finetune"
    assert main(["convert", "release", str(sample / "release"), "--base", str(sample / "base"), "-o", str(tmp_path / "model")]) == 0
    assert "the authors' release" in (tmp_path / "model" / "README.md").read_text()
    capsys.readouterr()
    assert main(["info", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["recipe"] == "the authors' release"


def test_info_of_a_model_without_depth_says_nothing_of_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline(("rgb", "normal")).save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), "--json"]) == 0
    assert "depth" not in json.loads(capsys.readouterr().out)


def test_the_second_stage_of_deepfloyd_reads_what_the_first_wrote(tmp_path: Path) -> None:
    for name in ("if-1", "if-2"):
        JointNetPipeline.from_base(tiny_base(name)).save_pretrained(tmp_path / name)
    first = ["generate", "a red ball", "--model", str(tmp_path / "if-1"), "--steps", "2", "-o", str(tmp_path / "small")]
    second = ["generate", "a red ball", "--model", str(tmp_path / "if-2"), "--steps", "2", "-o", str(tmp_path / "large")]
    assert main(first) == 0
    assert main([*second, "--low-res", str(tmp_path / "small")]) == 0
    assert np.load(tmp_path / "large" / "depth.npy").shape == (64, 64)
    assert main(second) == 2
    assert main([*second, "--low-res", str(tmp_path / "nowhere")]) == 2


def test_a_base_that_predicts_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    shutil.copytree(SAMPLES / "finetune" / "base", base)
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    release = str(SAMPLES / "finetune" / "release")
    assert main(["convert", "release", release, "--base", str(base), "-o", str(tmp_path / "out")]) == 2
    assert "takes predictions of v_prediction" in capsys.readouterr().err


def test_the_release_preset_clips_no_latents(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = EulerDiscreteScheduler()
    pipeline.save_pretrained(tmp_path / "model")
    opened = open_model(Run(model=str(tmp_path / "model"), preset="release", output=tmp_path / "out"), "")
    assert (opened.scheduler.config.clip_sample, opened.scheduler.config.set_alpha_to_one) == (False, False)


@pytest.mark.parametrize("name", ["provenance.json", "vocabulary.json"])
def test_a_broken_side_file_gets_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).write_text('{"steps": ')
    capsys.readouterr()  # bars of saving
    command = ["info", str(tmp_path / "model")] if name == "provenance.json" else ["generate", "x", "--model", str(tmp_path / "model")]
    assert main([*command, *([] if command[0] == "info" else ["-o", str(tmp_path / "out")])]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert name in error


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    sample = SAMPLES / "finetune"
    arguments = ["convert", "release", str(sample / "release"), "--base", str(sample / "base"), "-o"]
    assert main([*arguments, str(tmp_path / "mine")]) == 2
    assert "which holds notes.txt and no model" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    for _ in range(2):  # a model is replaced by a model
        assert main([*arguments, str(tmp_path / "model")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_a_folder_that_only_has_an_entry_named_as_a_part_of_a_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "projects" / "jointnet").mkdir(parents=True)
    (tmp_path / "projects" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds jointnet and no model"), replacing(tmp_path / "projects"):
        pass
    assert (tmp_path / "projects" / "thesis.txt").read_text() == "mine"


def test_what_lies_in_a_model_folder_and_is_no_part_of_the_model_stays(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    for name in (".git/HEAD", "notes.txt", "pictures/a.txt"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("mine")
    (model / "provenance.json").write_text("{}")
    with replacing(model) as unfinished:
        (unfinished / "model_index.json").write_text("{}")
        (unfinished / "notes.txt").write_text("the model's")
    assert {p.name for p in model.iterdir()} == {"model_index.json", ".git", "notes.txt", "pictures"}
    assert (model / ".git" / "HEAD").read_text() == (model / "pictures" / "a.txt").read_text() == "mine"
    assert (model / "notes.txt").read_text() == "the model's"


def test_a_model_folder_is_whole_whatever_happens(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    old, new = (json.dumps({"_class_name": "JointNetPipeline", "which": which}) for which in ("old", "new"))
    (model / "model_index.json").write_text(old)

    def fill_up() -> None:
        with replacing(model) as unfinished:
            (unfinished / "model_index.json").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="free space"):
        fill_up()
    assert (model / "model_index.json").read_text() == old
    model.rename(tmp_path / ".model.jointnet-old")  # as a kill between the two moves leaves it
    with pytest.raises(KeyboardInterrupt), replacing(model):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with replacing(model) as unfinished:
        (unfinished / "model_index.json").write_text(new)
    assert (model / "model_index.json").read_text() == new
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_scheduler_without_betas_gives_its_place_to_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = EDMEulerScheduler()
    pipeline.save_pretrained(tmp_path / "model")
    assert main(["generate", "x", "--model", str(tmp_path / "model"), "--scheduler", "ddim", "-o", str(tmp_path / "out")]) == 2
    assert "got a model with EDMEulerScheduler" in capsys.readouterr().err
