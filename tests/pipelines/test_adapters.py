"""Adapters (LoRA) that are loaded while a pipeline is extended or saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

from jointnet.checkpoints.release import read_release, write_release
from jointnet.errors import UnknownNameError, UnsupportedBaseError
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import assert_same_weights, tiny_base
from tests.conftest import tiny_pipeline
from tests.pipelines.test_habits import lora_weights, make, needs_peft_of_transformers, save_lora

STYLE = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


def styled_base() -> DiffusionPipeline:
    """diffusers' own pipeline with a LoRA loaded."""
    base = tiny_base("sd1")
    torch.manual_seed(3)
    base.unet.add_adapter(STYLE, "style")
    return base


def save_style(folder: Path) -> None:
    """A file with the LoRA of ``styled_base``."""
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(styled_base().unet, adapter_name="style", save_embedding_layers=False)
    )


def test_a_base_with_a_lora_is_extended_by_the_weights_without_it(tmp_path: Path) -> None:
    pipeline, plain = JointNetPipeline.from_base(styled_base()), tiny_base("sd1")
    pipeline.set_progress_bar_config(disable=True)
    assert_same_weights(pipeline.joint_unet.branch("depth"), plain.unet)
    options = {"height": 32, "width": 32, "guidance_scale": 5.0}
    both = make(pipeline, **options)
    pipeline.unload_lora_weights()
    alone = make(pipeline, **options)
    assert (both.images - alone.images).abs().max() > 1e-4
    assert torch.equal(both.depth, alone.depth)
    unstyled = JointNetPipeline.from_base(plain)
    unstyled.set_progress_bar_config(disable=True)
    assert torch.equal(make(unstyled, **options).images, alone.images)


def test_what_is_saved_with_a_lora_loaded_is_the_model_without_it(tmp_path: Path) -> None:
    pipeline, lora, folder = tiny_pipeline(), tmp_path / "lora", tmp_path / "model"
    save_lora(lora)
    plain = make(pipeline).images
    pipeline.load_lora_weights(lora, adapter_name="style")
    styled = make(pipeline).images
    pipeline.save_pretrained(folder)
    assert torch.equal(make(pipeline).images, styled)  # it is still there
    loaded = JointNetPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(make(loaded).images, plain, atol=1e-4)
    loaded.load_lora_weights(lora)
    assert torch.allclose(make(loaded).images, styled, atol=1e-4)


def test_a_fused_lora_is_part_of_what_is_saved(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    save_lora(tmp_path / "lora")
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="style")
    pipeline.fuse_lora()
    styled = make(pipeline).images
    pipeline.save_pretrained(tmp_path / "model")
    loaded = JointNetPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(make(loaded).images, styled, atol=1e-4)


def test_a_lora_of_the_base_may_change_every_branch(tmp_path: Path) -> None:
    """As those for few steps must: what is then drawn is as if the base had been extended with it fused in."""
    save_style(tmp_path / "lora")
    base = tiny_base("sd1")
    base.load_lora_weights(tmp_path / "lora")
    base.fuse_lora()
    base.unload_lora_weights()
    expected = make(quiet(JointNetPipeline.from_base(base)))
    pipeline = quiet(JointNetPipeline.from_base(tiny_base("sd1")))
    plain = make(pipeline)
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="fast", branch="all")
    both = make(pipeline)
    assert torch.allclose(both.images, expected.images, atol=1e-4)
    assert torch.allclose(both.depth, expected.depth, atol=1e-4)
    assert (both.depth - plain.depth).abs().max() > 1e-4

    pipeline.set_adapters("fast", 0.0)
    assert torch.allclose(make(pipeline).depth, plain.depth, atol=1e-4)
    pipeline.set_adapters("fast", 1.0)
    assert torch.allclose(make(pipeline).depth, both.depth, atol=1e-4)
    pipeline.unload_lora_weights()
    after = make(pipeline)
    assert torch.equal(after.images, plain.images)
    assert torch.equal(after.depth, plain.depth)


def test_a_lora_may_change_one_dense_branch_alone(tmp_path: Path) -> None:
    save_style(tmp_path / "lora")
    pipeline = quiet(JointNetPipeline.from_base(tiny_base("sd1")))
    plain = make(pipeline)
    pipeline.load_lora_weights(tmp_path / "lora", branch="depth")
    changed = make(pipeline)
    assert torch.equal(changed.images, plain.images)  # untrained exchanges send nothing
    assert (changed.depth - plain.depth).abs().max() > 1e-4
    pipeline.fuse_lora(components=["depth_unet"])
    assert torch.allclose(make(pipeline).depth, changed.depth, atol=1e-4)


def test_branches_that_a_lora_does_not_fit_are_refused(tmp_path: Path) -> None:
    save_style(tmp_path / "lora")
    pipeline = JointNetPipeline.from_base(tiny_base("sd1"), branch="thin:0.5")
    with pytest.raises(UnsupportedBaseError, match=r"of the kind thin:0\.5"):
        pipeline.load_lora_weights(tmp_path / "lora", branch="all")
    with pytest.raises(UnknownNameError, match="expected all, or one of rgb, depth"):
        pipeline.load_lora_weights(tmp_path / "lora", branch="normal")
    with pytest.raises(AttributeError):
        _ = pipeline.normal_unet


def quiet(pipeline: JointNetPipeline) -> JointNetPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@needs_peft_of_transformers
def test_a_lora_of_the_text_encoder_is_left_out_of_what_is_saved_too(tmp_path: Path) -> None:
    encoder = tiny_pipeline().text_encoder
    torch.manual_seed(3)
    encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", text_encoder_lora_layers=lora_weights(encoder))
    pipeline = tiny_pipeline()
    pipeline.load_lora_weights(tmp_path / "lora")
    pipeline.save_pretrained(tmp_path / "model")
    assert not [key for key in load_file(tmp_path / "model" / "text_encoder" / "model.safetensors") if "lora" in key]
    loaded = JointNetPipeline.from_pretrained(tmp_path / "model")
    assert_same_weights(loaded.text_encoder, tiny_pipeline().text_encoder)


def test_a_release_is_written_without_adapters(tmp_path: Path) -> None:
    joint = JointNetPipeline.from_base(styled_base()).joint_unet
    write_release(joint, tmp_path)
    assert_same_weights(read_release(tmp_path).joint_unet.branch("rgb"), tiny_base("sd1").unet)


def test_leaving_adapters_out_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("jointnet.pipelines.joint_net.logger.warning", lines.append)
    pipeline = JointNetPipeline.from_base(styled_base())
    pipeline.save_pretrained(tmp_path)
    assert "without the adapters style; fuse_lora() first" in lines[0]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # of the second adapter
def test_adapters_of_all_branches_have_one_name_and_fuse_together(tmp_path: Path) -> None:
    save_style(tmp_path / "lora")
    weights = load_file(next((tmp_path / "lora").glob("*.safetensors")))
    kept = dict(weights)
    pipeline = quiet(JointNetPipeline.from_base(tiny_base("sd1"), ("rgb", "depth", "normal")))
    pipeline.load_lora_weights(tmp_path / "lora")
    pipeline.load_lora_weights(weights, branch="all")
    assert weights.keys() == kept.keys()
    named = pipeline.get_list_adapters()
    assert set.intersection(*(set(named[part]) for part in ("unet", "depth_unet", "normal_unet"))) == {"default_1"}
    pipeline.set_adapters("default_1")
    changed = make(pipeline)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    fused = make(pipeline)
    assert torch.allclose(fused.images, changed.images, atol=1e-4)
    assert torch.allclose(fused.depth, changed.depth, atol=1e-4)


def test_a_style_is_not_fused_into_layers_that_others_run(tmp_path: Path) -> None:
    save_style(tmp_path / "lora")
    pipeline = quiet(JointNetPipeline.from_base(tiny_base("sd1"), branch="lora:2"))
    pipeline.load_lora_weights(tmp_path / "lora")
    with pytest.raises(UnsupportedBaseError, match="lora:2 branches run too"):
        pipeline.fuse_lora()
