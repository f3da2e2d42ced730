"""What branches that weigh less cost, at Stable Diffusion 2.1's size: python benchmarks/light.py prints operations and new weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.utils.flop_counter import FlopCounterMode

from jointnet.models.joint_unet import JointUNet

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.full_size import UNET

KINDS = ("full", "lora:4", "lora:16", "lora:64", "thin:0.75", "thin:0.5", "thin:0.4", "thin:0.25")
MAPS = (("rgb", "depth"), ("rgb", "depth", "normal"))


def main() -> None:
    """Count on tensors without data."""
    share_of_text()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        base = operations(JointUNet.from_unet(unet, ("rgb",)))
        print(f"{'maps':4} {'branch':10} {'operations':>10} {'new weights':>12}")
        for modalities in MAPS:
            for kind in KINDS:
                network = JointUNet.from_unet(unet, modalities, branch=kind)
                new = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("branches.rgb."))
                print(f"{len(modalities):4} {kind:10} {operations(network) / base:8.2f} x {new / 1e6:10.1f} M")


def share_of_text() -> None:
    """Print what keys and values of the text, the same in every step, are of a guided call of the base."""
    from benchmarks.speed import counters

    for name, counter in counters().items():
        layers = [layer for layer in counter.unet.modules() if isinstance(layer, Attention) and layer.is_cross_attention]
        of_text = sum(2 * 2 * 77 * (layer.to_k.weight.numel() + layer.to_v.weight.numel()) for layer in layers)
        print(f"keys and values of the text, {name}: {of_text / counter.base(2):.1%}")


def operations(network: JointUNet) -> int:
    """Of a guided call at 512 x 512."""
    count = len(network.modalities)
    x, t, text = torch.empty(2, count, 4, 64, 64), torch.zeros(2, count), torch.empty(2, 77, UNET["cross_attention_dim"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t, text)
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
