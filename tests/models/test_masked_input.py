from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jointnet.models.joint_unet import JointUNet
from jointnet.types import Known
from tests.bases import UNETS, assert_same_weights, fill, network_inputs, tiny_unet


def some_known(sample: Tensor) -> Known:
    g = torch.Generator().manual_seed(9)
    asked = torch.rand(*sample.shape[:2], 1, *sample.shape[3:], generator=g) > 0.5
    return Known(torch.randn(sample.shape, generator=g), asked)


def trained(joint: JointUNet) -> JointUNet:
    fill(joint.masked_inputs, 6, 0.1)
    return joint


@torch.no_grad()
@pytest.mark.parametrize("base", UNETS)
def test_untrained_masked_input_changes_nothing(base: str) -> None:
    inputs = network_inputs(base, 2, 2)
    joint = JointUNet.from_unet(tiny_unet(base))
    before = joint(**inputs).sample
    assert torch.equal(joint.add_masked_input()(**inputs, known=some_known(inputs["sample"])).sample, before)


@torch.no_grad()
def test_it_reads_own_and_other_masks_and_known_latents_but_nothing_below_the_mask() -> None:
    joint = trained(JointUNet.from_unet(tiny_unet("sd1"), ("rgb", "depth", "normal")).add_masked_input())
    inputs = network_inputs("sd1", 1, 3)
    known = some_known(inputs["sample"])
    before = joint(**inputs, known=known).sample
    for changed in range(3):
        latents = known.latents.clone()
        latents[:, changed] += 1
        moved = (joint(**inputs, known=Known(latents, known.asked)).sample - before).abs().amax((0, 2, 3, 4))
        assert (moved > 1e-4).all()
    hidden = torch.where(known.asked, torch.nan, known.latents)
    assert torch.equal(joint(**inputs, known=Known(hidden, known.asked)).sample, before)


@torch.no_grad()
def test_own_mask_and_latents_come_first_then_the_others_in_order() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"), ("rgb", "depth", "normal")).add_masked_input()
    sample = network_inputs("sd1", 1, 3)["sample"]
    known = some_known(sample)
    read = joint._masks_as_read(1, sample[:, 1], known)
    parts = [torch.cat([known.asked[:, i].float(), known.latents[:, i] * ~known.asked[:, i]], 1) for i in (1, 0, 2)]
    assert torch.equal(read, torch.cat(parts, 1))
    assert joint.masked_inputs["rgb"].in_channels == 3 * (1 + 4)


@torch.no_grad()
def test_nothing_known_is_all_white_masks() -> None:
    joint = trained(JointUNet.from_unet(tiny_unet("sd1")).add_masked_input())
    inputs = network_inputs("sd1", 2, 2)
    sample = inputs["sample"]
    white = Known(torch.randn_like(sample), torch.ones_like(sample[:, :, :1], dtype=torch.bool))
    assert torch.equal(joint(**inputs).sample, joint(**inputs, known=white).sample)


@torch.no_grad()
def test_masked_input_is_saved_and_loaded(tmp_path: Path) -> None:
    joint = trained(JointUNet.from_unet(tiny_unet("sd1")).add_masked_input())
    joint.save_pretrained(tmp_path)
    loaded = JointUNet.from_pretrained(tmp_path)
    inputs = network_inputs("sd1", 1, 2)
    known = some_known(inputs["sample"])
    assert loaded.config.has_masked_input
    assert_same_weights(loaded, joint)
    assert torch.allclose(loaded(**inputs, known=known).sample, joint(**inputs, known=known).sample, atol=1e-5)
