"""Dense branches that weigh less: what they begin with, what they cost, what is saved of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jointnet.checkpoints.release import write_release
from jointnet.errors import ModelFolderError, UnknownNameError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.models.light import LowRank
from tests.bases import UNETS, assert_same_weights, network_inputs, of_branch, perturbed, tiny_unet

KINDS = ("lora:4", "thin:0.5")


def light(base: str, kind: str, modalities: tuple[str, ...] = ("rgb", "depth")) -> JointUNet:
    return JointUNet.from_unet(tiny_unet(base), modalities, branch=kind)


def own_parameters(joint: JointUNet) -> int:
    """Of all but the RGB branch."""
    return sum(p.numel() for name, p in joint.named_parameters() if not name.startswith("branches.rgb."))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", UNETS)
def test_rgb_is_the_bases_own_at_first(base: str, kind: str) -> None:
    unet, inputs = tiny_unet(base), network_inputs(base, 1, 2)
    prediction = light(base, kind)(**inputs).sample
    assert torch.equal(prediction[:, 0], unet(**of_branch(inputs, 0)).sample)
    if kind.startswith("lora"):
        assert torch.allclose(prediction[:, 1], unet(**of_branch(inputs, 1)).sample, atol=1e-6)
    assert prediction.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["sd1", "sdxl", "if-1"])
def test_saved_and_loaded_they_are_the_same(base: str, kind: str, tmp_path: Path) -> None:
    joint, inputs = perturbed(light(base, kind)).eval(), network_inputs(base, 1, 2)
    joint.save_pretrained(tmp_path)
    loaded = JointUNet.from_pretrained(tmp_path)
    assert_same_weights(loaded, joint)
    assert torch.allclose(loaded(**inputs).sample, joint(**inputs).sample, atol=1e-5)
    assert JointUNet.from_config(joint.config).config.branch == kind


def test_what_is_saved_of_a_low_rank_branch_is_its_own(tmp_path: Path) -> None:
    joint = light("sd2", "lora:2")
    joint.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    of_depth = {name: value for name, value in saved.items() if name.startswith("branches.depth.")}
    assert sum(value.numel() for value in of_depth.values()) < 0.3 * sum(p.numel() for p in tiny_unet("sd2").parameters())
    changed = [name for name, _ in joint.branch("rgb").named_modules() if _is_layer(joint.branch("rgb"), name)]
    assert all(f"branches.depth.unet.{name}.up.weight" in of_depth for name in changed)


def _is_layer(unet: nn.Module, name: str) -> bool:
    return isinstance(unet.get_submodule(name), nn.Linear | nn.Conv2d) and name not in ("conv_in", "conv_out")


@torch.no_grad()
def test_a_change_of_low_rank_is_added_to_the_layer_it_stands_for() -> None:
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(6, 8), torch.randn(2, 6)), (nn.Conv2d(6, 8, 3, stride=2, padding=1), torch.randn(1, 6, 9, 9))):
        change = LowRank(layer, 3)
        assert torch.equal(change(x), layer(x))
        change.up.weight.normal_()  # pyright: ignore[reportCallIssue] - a parameter
        whole = copy.deepcopy(layer)
        down, up = change.down.weight, change.up.weight
        whole.weight.add_(torch.einsum("or...,ri...->oi...", up.reshape(8, 3), down))  # pyright: ignore - parameters
        assert torch.allclose(change(x), whole(x), atol=1e-5)


def test_a_low_rank_branch_trains_its_own_and_follows_rgb() -> None:
    joint, inputs = light("sd2", "lora:2"), network_inputs("sd2", 1, 2)
    joint.branches["rgb"].requires_grad_(False)
    joint(**inputs).sample[:, 1].square().sum().backward()
    trained = {name for name, p in joint.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained
    assert not [name for name in trained if name.startswith("branches.rgb.")]
    assert "branches.depth.unet.mid_block.attentions.0.proj_in.up.weight" in trained
    with torch.no_grad():
        before = joint(**inputs).sample
        joint.branch("rgb").mid_block.attentions[0].proj_in.weight.mul_(2)  # pyright: ignore - a layer of every such base
        after = joint(**inputs).sample
    assert not torch.allclose(after[:, 1], before[:, 1])


@torch.no_grad()
def test_copies_of_a_network_share_within_themselves() -> None:
    joint, inputs = perturbed(light("sd2", "lora:2")), network_inputs("sd2", 1, 2)
    other = copy.deepcopy(joint)
    assert torch.equal(other(**inputs).sample, joint(**inputs).sample)
    for parameter in joint.branches["rgb"].parameters():
        parameter.zero_()
    assert not torch.equal(other(**inputs).sample, joint(**inputs).sample)
    half = copy.deepcopy(other).to(torch.bfloat16)
    moved = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in inputs.items()}
    assert half(**moved).sample.dtype == torch.bfloat16


@torch.no_grad()
def test_a_style_of_the_base_stays_on_rgb() -> None:
    unet = tiny_unet("sd1")
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    joint, inputs = JointUNet.from_unet(unet, branch="lora:2"), network_inputs("sd1", 1, 2)
    prediction = joint(**inputs).sample
    assert torch.equal(prediction[:, 0], unet(**of_branch(inputs, 0)).sample)
    assert torch.allclose(prediction[:, 1], tiny_unet("sd1")(**of_branch(inputs, 1)).sample, atol=1e-6)


def test_thinner_branches_compute_and_weigh_less() -> None:
    def operations(joint: JointUNet) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            joint(**network_inputs("sd2", 1, len(joint.modalities)))
        return counter.get_total_flops()

    base = operations(JointUNet.from_unet(tiny_unet("sd2"), ("rgb",)))
    by_share = [operations(light("sd2", f"thin:{share}")) / base for share in (0.25, 0.5, 0.75)]
    full = operations(JointUNet.from_unet(tiny_unet("sd2"))) / base
    assert by_share == sorted(by_share)
    assert by_share[1] < 1.5 < by_share[2] < full
    assert own_parameters(light("sd2", "thin:0.5")) < 0.4 * own_parameters(JointUNet.from_unet(tiny_unet("sd2")))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_masked_input_that_is_added_changes_nothing_at_first(kind: str) -> None:
    joint = perturbed(light("sd2", kind, ("rgb", "depth", "normal")))
    inputs = network_inputs("sd2", 1, 3)
    before = joint(**inputs).sample
    masked = joint.add_masked_input()
    assert torch.allclose(masked(**inputs).sample, before, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "lora:0", "lora:x", "thin:1", "thin:-1", "thinner", ""])
def test_unknown_kinds_are_refused(kind: str) -> None:
    with pytest.raises(UnknownNameError, match="expected one of full, lora:RANK, thin:SHARE"):
        JointUNet.from_unet(tiny_unet("sd1"), branch=kind)


def test_what_shared_layers_cannot_take_is_refused(tmp_path: Path) -> None:
    joint = light("sd1", "lora:2")
    with pytest.raises(UnsupportedBaseError, match="cannot be fused"):
        joint.fuse_qkv_projections()
    with pytest.raises(UnsupportedBaseError, match="leaf_level"):
        joint.enable_group_offload(torch.device("cpu"))
    for kind in KINDS:
        with pytest.raises(ModelFolderError, match=f"{kind} branches"):
            write_release(light("sd1", kind), tmp_path / kind)
        assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_gives_the_same_branch_each_time(kind: str) -> None:
    assert_same_weights(light("sd2", kind), light("sd2", kind))
