from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D

from jointnet.errors import ShapeError, UnknownNameError, UnsupportedBaseError
from jointnet.models.branch import Channels
from jointnet.models.joint_unet import Exchange, JointUNet
from jointnet.models.unet_branch import UNetBranch
from tests.bases import UNETS, assert_same_weights, network_inputs, of_branch, perturbed, tiny_unet


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize("base", UNETS)
def test_every_branch_equals_the_base_at_init(base: str, size: tuple[int, int]) -> None:
    unet = tiny_unet(base)
    joint = JointUNet.from_unet(tiny_unet(base), ("rgb", "depth"))
    inputs = network_inputs(base, 2, 2, *size)
    prediction = joint(**inputs).sample
    for index in range(2):
        assert torch.equal(prediction[:, index], unet(**of_branch(inputs, index)).sample)


@torch.no_grad()
@pytest.mark.parametrize("base", ["sd1", "sd2", "sdxl"])  # DeepFloyd-IF's own blocks take multiples alone
def test_odd_sizes_are_preserved_too(base: str) -> None:
    unet = tiny_unet(base)
    joint = JointUNet.from_unet(tiny_unet(base), ("rgb", "depth", "normal"))
    inputs = network_inputs(base, 1, 3, 15, 17)
    prediction = joint(**inputs).sample
    for index in range(3):
        assert torch.equal(prediction[:, index], unet(**of_branch(inputs, index)).sample)


@torch.no_grad()
@pytest.mark.parametrize(("base", "branch"), [("sd1", "full"), ("sd2", "lora:4"), ("sd2", "thin:0.5")])
def test_trained_exchanges_join_every_pair(base: str, branch: str) -> None:
    joint = perturbed(JointUNet.from_unet(tiny_unet(base), ("rgb", "depth", "normal"), branch=branch))
    inputs = network_inputs(base, 1, 3)
    before = joint(**inputs).sample
    for changed in range(3):
        sample = inputs["sample"].clone()
        sample[:, changed] += 1
        moved = (joint(**{**inputs, "sample": sample}).sample - before).abs().amax((0, 2, 3, 4))
        assert (moved > 1e-4).all()


@torch.no_grad()
def test_each_exchange_acts_on_its_receiver_alone() -> None:
    inputs = network_inputs("sd1", 1, 3)
    for part in ("input", "mid", "skips"):
        joint = JointUNet.from_unet(tiny_unet("sd1"), ("rgb", "depth", "normal"))
        before = joint(**inputs).sample
        for parameter in getattr(joint.exchanges["depth_to_rgb"], part).parameters():
            parameter.add_(0.1)
        moved = (joint(**inputs).sample - before).abs().amax((0, 2, 3, 4))
        assert moved[0] > 1e-5
        assert moved[1:].max() == 0


@torch.no_grad()
def test_a_number_and_a_vector_of_timesteps_mean_all_modalities() -> None:
    joint = perturbed(JointUNet.from_unet(tiny_unet("sd1")))
    inputs = network_inputs("sd1", 2, 2)
    full = joint(**{**inputs, "timestep": torch.full((2, 2), 500)}).sample
    assert torch.equal(joint(**{**inputs, "timestep": 500}).sample, full)
    assert torch.equal(joint(**{**inputs, "timestep": torch.tensor([500, 500])}).sample, full)


@torch.no_grad()
def test_save_and_load_is_exact(tmp_path: Path) -> None:
    joint = perturbed(JointUNet.from_unet(tiny_unet("sd2"), ("rgb", "normal"))).eval()
    joint.save_pretrained(tmp_path)
    loaded = JointUNet.from_pretrained(tmp_path)
    inputs = network_inputs("sd2", 2, 2)
    assert loaded.modalities == ("rgb", "normal")
    assert_same_weights(loaded, joint)
    assert torch.allclose(loaded(**inputs).sample, joint(**inputs).sample, atol=1e-5)


def _note(runs: list[object], module: object, _: object) -> None:
    runs.append(module)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        joint = perturbed(JointUNet.from_unet(tiny_unet("sd1"))).train()
        if checkpointing:
            joint.enable_gradient_checkpointing()
        resnets = [m for m in joint.modules() if isinstance(m, ResnetBlock2D)]
        runs: list[object] = []
        for resnet in resnets:
            resnet.register_forward_pre_hook(partial(_note, runs))
        joint(**network_inputs("sd1", 2, 2)).sample.square().mean().backward()
        again = len(runs) - len(resnets)
        assert again > len(resnets) / 2 if checkpointing else again == 0  # the middle block's are not run again
        gradients.append([p.grad for p in joint.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
def test_every_part_runs_through_its_own_call() -> None:
    """Hooks of accelerate, diffusers and FSDP2 hang on it: twice a branch for its halves, twice an exchange for input and features."""
    joint = JointUNet.from_unet(tiny_unet("sd1"), ("rgb", "depth", "normal"))
    parts = [*joint.branches.values(), *joint.exchanges.values()]
    runs: list[object] = []
    for part in parts:
        part.register_forward_hook(lambda module, _args, _output: runs.append(module))
    joint(**network_inputs("sd1", 1, 3))
    assert [runs.count(part) for part in parts] == [2] * (3 + 6)


@torch.no_grad()
def test_branches_and_exchanges_run_from_weights_that_hooks_hold() -> None:
    """accelerate's hooks bring a module's weights for its ``forward`` only."""
    joint = perturbed(JointUNet.from_unet(tiny_unet("sd1"))).eval()
    inputs = network_inputs("sd1", 1, 2)
    expected = joint(**inputs).sample
    for part in [*joint.branches.values(), *joint.exchanges.values()]:
        weights = {name: value.clone() for name, value in part.state_dict().items()}
        add_hook_to_module(part, AlignDevicesHook("cpu", offload=True, weights_map=weights, place_submodules=True))
    assert all(parameter.is_meta for parameter in joint.parameters())
    assert torch.equal(joint(**inputs).sample, expected)


def test_an_exchange_of_branches_with_different_numbers_of_skips_is_refused() -> None:
    with pytest.raises(ShapeError, match="got branches with 2 and 3 skips"):
        Exchange(Channels(4, 8, (8, 16), 16), Channels(4, 8, (8, 16, 16), 16), 3)


@torch.no_grad()
def test_an_exchange_fits_a_thinner_branch_to_a_wider_one_and_back() -> None:
    thin, wide = Channels(state=4, input=8, skips=(8, 16), mid=16), Channels(state=3, input=12, skips=(12, 24), mid=32)
    for sender, receiver in ((thin, wide), (wide, thin)):
        exchange = Exchange(sender, receiver, 3)
        assert exchange.send_input(torch.randn(2, sender.state, 6, 5)).shape == (2, receiver.input, 6, 5)
        skips, mid = exchange.send_features([torch.randn(2, c, 6, 5) for c in sender.skips], torch.randn(2, sender.mid, 3, 3))
        assert [skip.shape[1] for skip in skips] == list(receiver.skips)
        assert mid.shape == (2, receiver.mid, 3, 3)
        assert all(value.abs().max() == 0 for value in (*skips, mid))


@torch.no_grad()
@pytest.mark.parametrize("base", UNETS)
def test_a_branch_states_the_channels_of_its_features(base: str) -> None:
    branch, inputs = UNetBranch(tiny_unet(base)), of_branch(network_inputs(base, 1, 1), 0)
    features = branch.encode(inputs.pop("sample"), inputs.pop("timestep"), inputs.pop("encoder_hidden_states"), 0, **inputs)
    channels = branch.channels
    assert tuple(skip.shape[1] for skip in features.skips) == channels.skips
    assert (features.mid.shape[1], features.skips[0].shape[1]) == (channels.mid, channels.input)


def test_the_loss_of_the_frozen_rgb_branch_trains_what_it_receives() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1")).train()
    joint.branch("rgb").requires_grad_(False)
    joint(**network_inputs("sd1", 2, 2)).sample[:, 0].square().mean().backward()
    received = joint.exchanges["depth_to_rgb"]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in received.parameters())
    assert all(p.grad is None for p in joint.branch("rgb").parameters())


def test_from_unet_keeps_the_base_as_the_rgb_branch() -> None:
    unet = tiny_unet("sd1")
    joint = JointUNet.from_unet(unet)
    assert joint.branch("rgb") is unet
    assert joint.branch("depth") is not unet
    assert isinstance(joint.branch("depth"), UNet2DConditionModel)


def test_a_sample_without_one_map_a_modality_is_refused() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    with pytest.raises(ShapeError, match="expected \\(B, 2, C, H, W\\)"):
        joint(**network_inputs("sd1", 1, 3))


@pytest.mark.parametrize("names", [("depth", "rgb"), ("rgb", "rgb"), ()])
def test_modalities_must_be_rgb_first_and_different(names: tuple[str, ...]) -> None:
    with pytest.raises(UnknownNameError, match="rgb"):
        JointUNet.from_unet(tiny_unet("sd1"), names)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj"}, "image_proj"),
        ({"in_channels": 9}, "in_channels 9 for out_channels 4 .inpainting"),
        ({"in_channels": 7, "num_class_embeds": 1000}, "num_class_embeds 1000"),
        ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, "class_embed_type 'projection'"),
        ({"time_cond_proj_dim": 8}, "distilled guidance"),
        ({"attention_type": "gated"}, "GLIGEN"),
        ({"addition_embed_type": "image", "encoder_hid_dim": 32}, "addition_embed_type 'image'"),
        ({"class_embeddings_concat": True, "class_embed_type": "timestep"}, "class_embeddings_concat"),
    ],
)
def test_an_unsupported_base_is_refused_by_name(changes: dict, name: str) -> None:
    unet = UNet2DConditionModel(norm_num_groups=8, **{**UNETS["sd1"], **changes})
    with pytest.raises(UnsupportedBaseError, match=name):
        JointUNet.from_unet(unet)


@torch.no_grad()
def test_an_upscaling_base_exchanges_the_noisy_maps_alone() -> None:
    joint = JointUNet.from_unet(tiny_unet("if-2"))
    assert (joint.in_channels, joint.exchanges["rgb_to_depth"].input.in_channels) == (3, 3)
    inputs = network_inputs("if-2", 1, 2)
    for name, parameter in joint.exchanges.named_parameters():
        if ".input." in name:
            parameter.fill_(0.1)
    other_small, other_noisy = dict(inputs), dict(inputs)
    other_small["low_res"] = replace(inputs["low_res"], maps=inputs["low_res"].maps.clone())
    other_small["low_res"].maps[:, 1] += 1
    other_noisy["sample"] = inputs["sample"].clone()
    other_noisy["sample"][:, 1] += 1
    rgb = joint(**inputs).sample[:, 0]
    assert torch.equal(joint(**other_small).sample[:, 0], rgb)
    assert not torch.allclose(joint(**other_noisy).sample[:, 0], rgb, atol=1e-3)
    with pytest.raises(ShapeError, match="needs low_res"):
        joint(**{**inputs, "low_res": None})
    with pytest.raises(ShapeError, match="only an upscaling base"):
        JointUNet.from_unet(tiny_unet("sd1"))(**network_inputs("sd1", 1, 2), low_res=inputs["low_res"])
