"""The authors' checkpoints: every sample they return, to a relative error of 1e-4."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.checkpoints.release import read_release, write_release
from jointnet.errors import ModelFolderError, UnsupportedBaseError
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.types import Known
from tests.bases import tiny_base
from tests.release_samples import DENSE, LIMIT, errors_of, main

SAMPLES = Path(__file__).parents[1] / "release-samples"


class Evil:
    """In a pickle, code that leaves a mark when it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES / "finetune" / "release", tmp_path / "release")
    return tmp_path / "release"


@pytest.mark.parametrize("name", ["finetune", "inpaint"])
def test_every_sample_is_reproduced(name: str) -> None:
    errors = dict(errors_of(SAMPLES / name))
    assert {"edit", "predict", "condition"} <= set(errors)
    assert all(error is not None and error <= LIMIT for error in errors.values()), errors


@torch.no_grad()
@pytest.mark.parametrize("height", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_tiled_samples_agree_with_loops_written_out(height: int) -> None:
    """Panoramas, and refinement with one row of tiles or three, against the release's description in plain loops around the network."""
    folder = SAMPLES / "inpaint"
    io = load_file(folder / "io.safetensors")
    pipeline = JointNetPipeline.from_release(folder / "release", folder / "base", DENSE)
    g = torch.Generator().manual_seed(0)
    embeds = torch.cat([io["negative_prompt_embeds"], io["prompt_embeds"]])

    def guided(tile: Tensor, t: Tensor) -> Tensor:
        x = tile.unflatten(1, (2, 4)).repeat(2, 1, 1, 1, 1)
        both = pipeline.joint_unet(
            x, t, embeds, known=Known(torch.zeros_like(x), torch.ones_like(x[:, :, :1], dtype=torch.bool))
        ).sample.flatten(1, 2)
        return both[:1] + 5.0 * (both[1:] - both[:1])

    def ramp(length: int, decay: int) -> Tensor:
        return torch.tensor([min(i + 0.5, length - i - 0.5, decay) / decay if decay else 1.0 for i in range(length)])

    def steps() -> Tensor:
        pipeline.scheduler.set_timesteps(10)
        return pipeline.scheduler.timesteps

    panorama = torch.randn(1, 8, 8, 32, generator=g)
    made: dict[str, Tensor] = {"panorama.latents": panorama}
    for name, decay, whole_steps in (("panorama", 2, 4), ("panorama_plain", 0, 0)):
        x = panorama
        for index, t in enumerate(steps()):
            total, weight = torch.zeros_like(x), torch.zeros(32)
            for start in range(0, 32, 4):
                columns = [(start + i) % 32 for i in range(8)]
                total[..., columns] += ramp(8, decay) * guided(x[..., columns], t)
                weight[columns] += ramp(8, decay)
            if index < whole_steps:
                total, weight = total + 5 * guided(x, t), weight + 5
            x = pipeline.scheduler.step(total / weight, t, x).prev_sample
        made[f"{name}.out"] = x

    rgb, dense = (torch.rand(1, 3, height, 128, generator=g) * 2 - 1 for _ in range(2))
    noise = torch.randn(1, 8, height // 8, 16, generator=g)
    known = torch.cat([pipeline.vae.encode(value).latent_dist.mode() * 0.18215 for value in (rgb, dense)], 1)
    times = steps()[-4:]
    x = pipeline.scheduler.add_noise(known, noise, times[:1])
    for t in times:
        total, weight = torch.zeros_like(x), torch.zeros(height // 8, 16)
        tile_weight = torch.minimum(ramp(8, 2)[:, None], ramp(8, 2))
        for top, left in product(range(0, height // 8 - 7, 4), range(0, 9, 4)):
            tile = (..., slice(top, top + 8), slice(left, left + 8))
            total[tile] += tile_weight * guided(x[tile], t)
            weight[tile] += tile_weight
        x = pipeline.scheduler.step(total / weight, t, x).prev_sample
    made |= {"refine.image": rgb, "refine.depth": dense, "refine.noise": noise, "refine.out": x}
    errors = dict(errors_of(folder, {**{k: v for k, v in io.items() if not k.endswith(".out")}, **made}))
    assert set(errors) == {"panorama", "panorama_plain", "refine"}
    assert all(error is not None and error <= LIMIT for error in errors.values()), errors


def test_the_script_fails_on_a_wrong_number_an_unknown_case_and_no_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLES / "inpaint")]) == 0
    shutil.copytree(SAMPLES / "inpaint", tmp_path / "one")
    io = load_file(tmp_path / "one" / "io.safetensors")
    cases = {
        "wrong": {**io, "edit.out": io["edit.out"] * 1.001},
        "unknown": {**io, "dance.out": io["edit.out"].clone()},
        "none": {k: v for k, v in io.items() if not k.endswith(".out")},
    }
    for name, values in cases.items():
        save_file(values, tmp_path / "one" / "io.safetensors")
        assert main([str(tmp_path / "one")]) == 1, name
    assert "dance: unknown case" in capsys.readouterr().out
    assert main([str(SAMPLES / "inpaint"), str(tmp_path / "nowhere")]) == 1


def test_a_case_that_cannot_be_run_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SAMPLES / "finetune", tmp_path / "one")
    io = load_file(tmp_path / "one" / "io.safetensors")
    save_file({k: v for k, v in io.items() if k != "generate.latents"}, tmp_path / "one" / "io.safetensors")
    assert main([str(tmp_path / "one")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(key.endswith(".out") for key in io)
    assert [("relative error" in line) for line in lines].count(False) == 1


def test_the_samples_are_run_with_ddim_and_take_depth_of_one_channel(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "inpaint", tmp_path / "one")
    path = tmp_path / "one" / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    index = tmp_path / "one" / "base" / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    io = load_file(tmp_path / "one" / "io.safetensors")
    save_file({**io, "edit.depth": io["edit.depth"][:, :1].contiguous()}, tmp_path / "one" / "io.safetensors")
    assert main([str(tmp_path / "one")]) == 0


def test_a_release_goes_both_ways(release: Path, tmp_path: Path) -> None:
    joint = read_release(release).joint_unet
    write_release(joint, tmp_path / "again")
    for branch in ("unet", "jointnet"):
        name = f"{branch}/diffusion_pytorch_model.safetensors"
        theirs, ours = load_file(release / name), load_file(tmp_path / "again" / name)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[k], ours[k]) for k in theirs)


def test_what_we_write_says_what_it_predicts_and_makes(release: Path, tmp_path: Path) -> None:
    assert read_release(release).prediction_type == "epsilon"
    write_release(read_release(release, "normal").joint_unet, tmp_path / "again", "v_prediction")
    again = read_release(tmp_path / "again")
    assert again.joint_unet.modalities == ("rgb", "normal")
    assert again.prediction_type == "v_prediction"
    with pytest.raises(ModelFolderError, match=r"checkpoint of normal.* expected depth"):
        read_release(tmp_path / "again", "depth")
    with pytest.raises(UnsupportedBaseError, match="takes predictions of epsilon for a checkpoint that predicts v_prediction"):
        JointNetPipeline.from_release(tmp_path / "again", SAMPLES / "finetune" / "base")


def test_a_v_prediction_model_goes_to_the_releases_form_and_back(tmp_path: Path) -> None:
    base = tiny_base("sd2-v")
    pipeline = JointNetPipeline.from_base(base)
    write_release(pipeline.joint_unet, tmp_path, "v_prediction")
    again = JointNetPipeline.from_release(tmp_path, base)
    ours = pipeline.joint_unet.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in again.joint_unet.state_dict().items())


def test_a_network_on_pixels_has_no_release_form(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="on pixels"):
        write_release(JointNetPipeline.from_base(tiny_base("if-1")).joint_unet, tmp_path)


def test_branches_are_found_below_and_several_checkpoints_are_listed(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "deep" / "checkpoints" / "rgbd" / "finetune")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "deep"))
    for path in (tmp_path / "deep", packed):
        assert read_release(path).joint_unet.modalities == ("rgb", "depth")
    shutil.copytree(release, tmp_path / "deep" / "checkpoints" / "rgbd" / "inpaint")
    both = Path(shutil.make_archive(str(tmp_path / "both"), "zip", tmp_path / "deep"))
    for path in (tmp_path / "deep", both):
        with pytest.raises(ModelFolderError, match=f"got 2 checkpoints in .*{path.name}.*/finetune, .*/inpaint; pass"):
            read_release(path)


def test_a_pickle_that_holds_code_is_refused_and_not_run(release: Path, tmp_path: Path) -> None:
    (release / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    marker = tmp_path / "ran"
    torch.save({"conv_in.weight": Evil(marker)}, release / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="more than tensors"):
        read_release(release)
    assert not marker.exists()
