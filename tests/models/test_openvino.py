"""Networks that run on OpenVINO give what they gave (slow: it compiles)."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from jointnet.errors import MissingPackageError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.models.openvino import leave_openvino, use_openvino
from jointnet.types import Kept, Known, Shortcut
from tests.bases import network_inputs, perturbed, tiny_unet


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("base", ["sd2", "sdxl"])
def test_openvino_gives_the_same_numbers(base: str) -> None:
    network, inputs = perturbed(JointUNet.from_unet(tiny_unet(base))).eval(), network_inputs(base, 2, 2)
    other = network_inputs(base, 1, 2, 8, 24)
    expected = [network(**each).sample for each in (inputs, other)]
    calls: Any = use_openvino(network).forward
    for each, whole in zip((inputs, inputs, other), (expected[0], *expected), strict=True):
        assert torch.allclose(network(**each).sample, whole, atol=1e-4)
    assert len(calls.compiled) == 2
    shortcut = Shortcut(unguided=True, kept=Kept())
    assert network(**inputs, shortcut=shortcut).sample.isfinite().all()
    assert torch.equal(leave_openvino(network)(**inputs).sample, expected[0])


@torch.no_grad()
@pytest.mark.slow
def test_known_parts_are_read() -> None:
    network, inputs = perturbed(JointUNet.from_unet(tiny_unet("sd2")).add_masked_input()).eval(), network_inputs("sd2", 1, 2)
    asked = torch.rand(1, 2, 1, *inputs["sample"].shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.5
    known = Known(torch.randn(inputs["sample"].shape, generator=torch.Generator().manual_seed(1)), asked)
    expected, nothing = network(**inputs, known=known).sample, network(**inputs).sample
    use_openvino(network)
    assert torch.allclose(network(**inputs, known=known).sample, expected, atol=1e-4)
    assert torch.allclose(network(**inputs).sample, nothing, atol=1e-4)


def test_what_it_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    network = JointUNet.from_unet(tiny_unet("sd2"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"jointnet\[openvino\]"):
        use_openvino(network)
    monkeypatch.setitem(sys.modules, "openvino", sys)
    with pytest.raises(UnsupportedBaseError, match="expected float32 on the CPU"):
        use_openvino(network.to(torch.bfloat16))
    with pytest.raises(UnsupportedBaseError, match="float32 or bfloat16"):
        use_openvino(network.float(), torch.float16)
