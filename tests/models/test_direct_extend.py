"""Direct Extend, and joint networks that exchange less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jointnet.errors import ShapeError, UnknownNameError
from jointnet.models.direct_extend import OUTPUT_INITS, DirectExtend, OutputInit
from jointnet.models.joint_unet import EXCHANGED, JointUNet
from tests.bases import network_inputs, of_branch, perturbed, tiny_unet


@torch.no_grad()
@pytest.mark.parametrize("output", OUTPUT_INITS)
@pytest.mark.parametrize("base", ["sd2", "sdxl"])
def test_direct_extend_begins_as_its_base_for_rgb_and_as_asked_for_depth(base: str, output: OutputInit) -> None:
    unet = tiny_unet(base)
    extended = DirectExtend.from_unet(unet, output=output, seed=3)
    inputs = network_inputs(base, 2, 2)
    inputs["timestep"] = torch.full((2, 2), 400)
    made = extended(**inputs).sample
    own = unet(**of_branch(inputs, 0)).sample
    assert torch.allclose(made[:, 0], own, atol=1e-5)  # more input channels are summed in another order
    expected = {"zeros": torch.zeros_like(own), "copy": own}.get(output)
    if expected is None:
        assert not torch.allclose(made[:, 1], own, atol=1e-2)
        assert torch.equal(made, DirectExtend.from_unet(unet, output="random", seed=3)(**inputs).sample)
    else:
        assert torch.allclose(made[:, 1], expected, atol=1e-5)


def test_direct_extend_leaves_the_base_as_it_is_and_all_of_it_is_trained() -> None:
    unet = tiny_unet("sd2")
    before = unet.conv_out.weight.clone()
    extended = DirectExtend.from_unet(unet)
    assert unet.config.in_channels * 2 == extended.unet.config.in_channels == extended.unet.conv_in.in_channels
    assert all(parameter.requires_grad for parameter in extended.parameters())
    extended.unet.conv_out.weight.data.zero_()
    assert torch.equal(unet.conv_out.weight, before)


@torch.no_grad()
def test_direct_extend_opens_again(tmp_path: Path) -> None:
    extended = DirectExtend.from_unet(tiny_unet("sd2"), output="random")
    extended.save_pretrained(tmp_path)
    inputs = network_inputs("sd2", 1, 2)
    assert torch.equal(DirectExtend.from_pretrained(tmp_path)(**inputs).sample, extended(**inputs).sample)


def test_direct_extend_refuses_what_it_cannot() -> None:
    extended = DirectExtend.from_unet(tiny_unet("sd2"))
    inputs = network_inputs("sd2", 1, 2)
    with pytest.raises(ShapeError, match="alone"):
        extended(**inputs, known=object())
    with pytest.raises(ShapeError, match="alone"):
        extended(**{**inputs, "sample": inputs["sample"][:, :1]})
    with pytest.raises(UnknownNameError, match="ones"):
        DirectExtend.from_unet(tiny_unet("sd2"), output="ones")  # type: ignore[arg-type] - refused


@torch.no_grad()
@pytest.mark.parametrize(
    ("routes", "moves"), [((), (False, False)), (("rgb_to_depth",), (False, True)), (("depth_to_rgb",), (True, False))]
)
def test_a_route_that_is_left_out_sends_nothing(routes: tuple[str, ...], moves: tuple[bool, bool]) -> None:
    """What another branch reads moves a branch only along a route."""
    joint = perturbed(JointUNet.from_unet(tiny_unet("sd1"), routes=routes))
    inputs = network_inputs("sd1", 1, 2)
    before = joint(**inputs).sample
    for receiver in range(2):
        sample = inputs["sample"].clone()
        sample[:, 1 - receiver] += 1
        moved = bool((joint(**{**inputs, "sample": sample}).sample[:, receiver] != before[:, receiver]).any())
        assert moved == moves[receiver]


@torch.no_grad()
@pytest.mark.parametrize("left_out", EXCHANGED)
def test_a_part_that_is_left_out_has_no_weights_and_the_rest_is_output_preserving(left_out: str, tmp_path: Path) -> None:
    exchanged = [part for part in EXCHANGED if part != left_out]
    joint = JointUNet.from_unet(tiny_unet("sd1"), exchanged=exchanged)
    inputs = network_inputs("sd1", 1, 2)
    assert torch.equal(joint(**inputs).sample[:, 1], tiny_unet("sd1")(**of_branch(inputs, 1)).sample)
    assert not [name for name, _ in joint.exchanges.named_parameters() if f".{left_out}" in name]
    assert [name for name, _ in joint.exchanges.named_parameters() if f".{exchanged[0]}" in name]
    perturbed(joint).save_pretrained(tmp_path)
    assert torch.allclose(JointUNet.from_pretrained(tmp_path)(**inputs).sample, joint(**inputs).sample, atol=1e-5)


def test_unknown_routes_and_parts_are_named() -> None:
    with pytest.raises(UnknownNameError, match="rgb_to_normal"):
        JointUNet.from_unet(tiny_unet("sd1"), routes=("rgb_to_normal",))
    with pytest.raises(UnknownNameError, match="tail"):
        JointUNet.from_unet(tiny_unet("sd1"), exchanged=("tail",))
