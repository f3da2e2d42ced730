from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import jointnet
from jointnet.cli.main import main
from tests.checkpoints.test_release import SAMPLES


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
    weights = release / "jointnet" / "diffusion_pytorch_model.safetensors"
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
    assert result["preset"] == "release"
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
    assert facts["trained"] == facts["stages"] == "it does not say"
    assert facts["base"] == "Stable Diffusion 1.x and 2.x"
    assert main(["info", str(model_folder)]) == 0
    assert "modalities: rgb, depth" in capsys.readouterr().out
    assert main(["info", "nowhere"]) == 2
