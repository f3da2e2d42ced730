"""What people do with diffusers' networks works with the joint one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.errors import ModelFolderError, UnknownNameError, UnsupportedBaseError
from jointnet.models.adapters import without_adapters
from jointnet.models.attention import DispatchedAttention
from jointnet.models.joint_unet import JointUNet
from jointnet.types import Known
from tests.bases import assert_same_weights, network_inputs, of_branch, tiny_unet
from tests.conftest import SMALLEST

INPUTS = network_inputs("sd1", 1, 2)


def with_lora(base: str = "sd1") -> Any:
    unet = tiny_unet(base)
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False), "style")
    return unet


# Adapters


@torch.no_grad()
def test_an_adapter_of_the_base_stays_on_rgb_and_the_copies_are_of_the_base() -> None:
    unet, plain = with_lora(), tiny_unet("sd1")
    joint = JointUNet.from_unet(unet)
    assert_same_weights(joint.branch("depth"), plain)
    assert all(p.requires_grad for p in joint.branch("depth").parameters())
    assert not hasattr(joint.branch("depth"), "peft_config")
    prediction = joint(**INPUTS).sample
    assert torch.equal(prediction[:, 0], unet(**of_branch(INPUTS, 0)).sample)
    assert torch.equal(prediction[:, 1], plain(**of_branch(INPUTS, 1)).sample)
    unet.delete_adapters("style")
    unet.unload_lora()
    assert torch.equal(joint(**INPUTS).sample[:, 0], plain(**of_branch(INPUTS, 0)).sample)


@torch.no_grad()
def test_saving_leaves_adapters_out_and_leaves_them_where_they_are(tmp_path: Path) -> None:
    joint = JointUNet.from_unet(with_lora())
    before = joint(**INPUTS).sample
    joint.save_pretrained(tmp_path)
    assert torch.equal(joint(**INPUTS).sample, before)
    assert not [key for key in load_file(tmp_path / "diffusion_pytorch_model.safetensors") if "lora" in key or "base_layer" in key]
    loaded = JointUNet.from_pretrained(tmp_path)
    assert_same_weights(loaded.branch("rgb"), tiny_unet("sd1"))
    assert loaded(**INPUTS).sample.isfinite().all()


@torch.no_grad()
def test_what_an_adapter_was_fused_into_is_saved(tmp_path: Path) -> None:
    unet = with_lora()
    styled = unet(**of_branch(INPUTS, 0)).sample
    joint = JointUNet.from_unet(unet)
    unet.fuse_lora()
    joint.save_pretrained(tmp_path)
    assert torch.allclose(JointUNet.from_pretrained(tmp_path)(**INPUTS).sample[:, 0], styled, atol=1e-4)


def test_layers_come_back_after_an_error() -> None:
    unet = with_lora()

    def fail() -> None:
        with without_adapters(unet):
            assert not [name for name, _ in unet.named_parameters() if "lora" in name]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [name for name, _ in unet.named_parameters() if "lora" in name]
    assert unet.active_adapters() == ["style"]


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    JointUNet.from_unet(tiny_unet("sd1")).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["branches.depth.unet.conv_out.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"got no weight branches\.depth\.unet\.conv_out\.weight"):
        JointUNet.from_pretrained(tmp_path)


# Attention


@torch.no_grad()
def test_attention_processors_are_read_and_set() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    names = set(joint.attn_processors)
    assert {name.split(".")[1] for name in names} == {"rgb", "depth"}
    assert all(hasattr(joint.get_submodule(name.removesuffix(".processor")), "set_processor") for name in names)
    before = joint(**INPUTS).sample
    joint.set_attn_processor(AttnProcessor())
    assert {type(p) for p in joint.attn_processors.values()} == {AttnProcessor}
    assert torch.allclose(joint(**INPUTS).sample, before, atol=1e-4)
    chosen = {name: AttnProcessor() for name in names}
    joint.set_attn_processor(chosen)
    assert joint.attn_processors == chosen
    of_one = {name: AttnProcessor() for name in joint.branch("rgb").attn_processors}
    joint.set_attn_processor(of_one)
    assert joint.branch("rgb").attn_processors == joint.branch("depth").attn_processors == of_one
    with pytest.raises(UnknownNameError, match=r"no attention processor for branches\.rgb\.unet"):
        joint.set_attn_processor({})


@torch.no_grad()
def test_projections_are_fused_in_every_branch() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    before, processors = joint(**INPUTS).sample, {type(p) for p in joint.attn_processors.values()}
    joint.fuse_qkv_projections()
    assert {type(p) for p in joint.attn_processors.values()} == {FusedAttnProcessor2_0}
    assert torch.allclose(joint(**INPUTS).sample, before, atol=1e-4)
    joint.unfuse_qkv_projections()
    assert {type(p) for p in joint.attn_processors.values()} == processors


@torch.no_grad()
@pytest.mark.parametrize("base", ["sd1", "sdxl"])
def test_an_attention_backend_is_asked_in_every_branch(base: str) -> None:
    joint, inputs = JointUNet.from_unet(tiny_unet(base)), network_inputs(base, 1, 2)
    before = joint(**inputs).sample
    try:
        joint.set_attention_backend("_native_math")
        assert torch.allclose(joint(**inputs).sample, before, atol=1e-5)
        assert {processor._attention_backend for processor in joint.attn_processors.values()} == {"_native_math"}
        joint.set_attention_backend("_native_cudnn")
        with pytest.raises(RuntimeError):  # a processor has no such kernel: so it was asked
            joint(**inputs)
    finally:
        joint.set_attention_backend("native")  # diffusers keeps the last one for all networks
    joint.reset_attention_backend()
    assert {type(processor) for processor in joint.attn_processors.values()} == {AttnProcessor2_0}
    assert torch.equal(joint(**inputs).sample, before)


def test_a_backend_for_attention_of_somebody_elses_is_refused() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    joint.fuse_qkv_projections()
    with pytest.raises(UnsupportedBaseError, match="FusedAttnProcessor2_0"):
        joint.set_attention_backend("native")
    joint.unfuse_qkv_projections()
    with pytest.raises(ValueError, match="must be one of"):
        joint.set_attention_backend("fastest")
    assert {type(processor) for processor in joint.attn_processors.values()} == {AttnProcessor2_0}


def test_diffusers_caches_are_refused() -> None:
    with pytest.raises(UnsupportedBaseError, match="choose a speed"):
        JointUNet.from_unet(tiny_unet("sd1")).enable_cache(FirstBlockCacheConfig())


@torch.no_grad()
def test_pictures_with_masks_of_the_text_are_attended_alike() -> None:
    """A mask goes through a backend as it goes through diffusers' own processor."""
    unet = tiny_unet("sd1")
    layer = next(m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention)
    x, text = torch.randn(2, 5, layer.query_dim), torch.randn(2, 7, layer.cross_attention_dim)
    mask = torch.zeros(2, 1, 7).masked_fill(torch.arange(7) > 3, -10_000.0)
    before = layer(x, text, attention_mask=mask)
    layer.set_processor(DispatchedAttention())
    assert torch.allclose(layer(x, text, attention_mask=mask), before, atol=1e-5)


# The U-Net of a branch


@torch.no_grad()
def test_hooks_on_a_branchs_unet_run() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    before, seen = joint(**INPUTS).sample, []
    unet = joint.branch("rgb")
    unet.register_forward_pre_hook(lambda _module, inputs, kwargs: seen.append((inputs, kwargs)), with_kwargs=True)
    unet.register_forward_hook(lambda _module, _inputs, output: output * 2 if isinstance(output, Tensor) else None)
    after = joint(**INPUTS).sample
    assert torch.equal(after[:, 0], 2 * before[:, 0])
    assert torch.equal(after[:, 1], before[:, 1])
    (first, _), (second, kwargs) = seen
    assert torch.equal(first[0], INPUTS["sample"][:, 0])
    assert not second
    assert "features" in kwargs


@torch.no_grad()
def test_a_branchs_unet_compiles() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    before, graphs = joint(**INPUTS).sample, []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    joint.branch("rgb").compile(backend=backend, fullgraph=True)
    assert torch.allclose(joint(**INPUTS).sample, before, atol=1e-5)
    assert len(graphs) == 2


def test_a_compiled_base_is_extended_as_it_was() -> None:
    joint = JointUNet.from_unet(torch.compile(tiny_unet("sd1"), backend="eager"))
    assert_same_weights(joint, JointUNet.from_unet(tiny_unet("sd1")))


@torch.no_grad()
def test_the_base_keeps_its_unet_as_it_was() -> None:
    unet = tiny_unet("sd1")
    before = unet(**of_branch(INPUTS, 0)).sample
    joint = JointUNet.from_unet(unet)
    assert torch.equal(unet(**of_branch(INPUTS, 0)).sample, before)
    assert unet(**of_branch(INPUTS, 0), return_dict=False)[0].shape == before.shape
    for again in (copy.deepcopy(joint), pickle.loads(pickle.dumps(joint))):
        with torch.no_grad():
            again.branch("rgb").conv_out.bias.add_(1)
        assert torch.allclose(again(**INPUTS).sample[:, 0], before + 1, atol=1e-5)
    assert torch.equal(joint(**INPUTS).sample[:, 0], before)
    other = JointUNet.from_unet(unet)
    assert torch.equal(other(**INPUTS).sample, joint(**INPUTS).sample)


# Export and configs


@torch.no_grad()
def test_a_masked_network_is_exported() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1")).add_masked_input()
    torch.manual_seed(0)
    for parameter in joint.masked_inputs.parameters():
        parameter.normal_(0, 0.1)
    known = Known(torch.ones_like(INPUTS["sample"]), INPUTS["sample"][:, :, :1] > 0)
    inputs = {**INPUTS, "known": known}
    program = torch.export.export(joint, (), {**inputs, "return_dict": False}, strict=False)
    assert torch.allclose(program.module()(**inputs, return_dict=False)[0], joint(**inputs).sample, atol=1e-5)


@torch.no_grad()
def test_a_part_of_a_config_is_completed_with_the_unets_defaults(tmp_path: Path) -> None:
    part = {name: value for name, value in SMALLEST.items() if name != "sample_size"}
    joint = JointUNet(unet_config=part)
    assert joint.in_channels == 4
    assert not joint.reads_sizes
    assert joint.branch("depth").config.layers_per_block == 1
    joint.save_pretrained(tmp_path)
    loaded = JointUNet.from_pretrained(tmp_path)
    assert loaded.config.unet_config["in_channels"] == 4
    assert_same_weights(loaded, joint)
    whole = JointUNet(unet_config=joint.branch("rgb").config)
    assert not [name for name in whole.config.unet_config if name.startswith("_")]
