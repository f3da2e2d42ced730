"""What parts of the networks are of a call, counted: python benchmarks/light.py writes docs/performance.json and .md.

Dense branches of each kind at Stable Diffusion 2.1's size, and what attention and the text's keys and values are of a guided call of the
base: the most that taking them over from earlier steps could save. On tensors without data; nothing is computed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.utils.flop_counter import FlopCounterMode

from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.full_size import UNET
from benchmarks.performance import FIGURES, write

KINDS = ("full", "lora:4", "lora:16", "lora:64", "thin:0.75", "thin:0.5", "thin:0.4", "thin:0.25")
MAPS = (("rgb", "depth"), ("rgb", "depth", "normal"))


def main() -> None:
    """Count, and write."""
    figures = load_figures(FIGURES)
    figures["counted"] = {"branches": branches(), "shares": shares(), "commit": code_commit(), "machine": machine()}
    save_figures(figures, FIGURES)
    write(figures)


def branches() -> list[dict[str, Any]]:
    """Of each kind and number of maps: operations of a call as multiples of the base's, and new weights in millions."""
    found = []
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        base = operations(JointUNet.from_unet(unet, ("rgb",)))
        for modalities in MAPS:
            for kind in KINDS:
                network = JointUNet.from_unet(unet, modalities, branch=kind)
                new = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("branches.rgb."))
                ratio = operations(network) / base
                found.append({"maps": len(modalities), "branch": kind, "operations": round(ratio, 3), "new_weights_m": round(new / 1e6, 1)})
    return found


def operations(network: JointUNet) -> int:
    """Of a guided call at 512 x 512."""
    count = len(network.modalities)
    x, t, text = torch.empty(2, count, 4, 64, 64), torch.zeros(2, count), torch.empty(2, 77, UNET["cross_attention_dim"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t, text)
    return counter.get_total_flops()


def shares() -> dict[str, dict[str, float]]:
    """By base: shares of a guided call's operations."""
    from benchmarks.speed import counters

    found = {}
    for name, counter in counters().items():
        config, unet = counter.unet.config, counter.unet
        with torch.device("meta"), FlopCounterMode(display=False) as mode, torch.no_grad():
            x, text = torch.empty(2, config.in_channels, counter.side, counter.side), torch.empty(2, 77, config.cross_attention_dim)
            unet(x, torch.zeros(2), text)
        of_module = {place.partition(".")[2]: sum(of.values()) for place, of in mode.get_flop_counts().items()}
        layers = {place: layer for place, layer in unet.named_modules() if isinstance(layer, Attention)}
        crossing = {place: layer for place, layer in layers.items() if layer.is_cross_attention}
        counts = {
            "self-attention": sum(of_module[place] for place in layers.keys() - crossing.keys()),
            "cross-attention": sum(of_module[place] for place in crossing),
            "keys and values of the text": sum(2 * text[..., 0].numel() * _text_weights(layer) for layer in crossing.values()),
        }
        found[name] = {part: round(count / mode.get_total_flops(), 4) for part, count in counts.items()}
    return found


def _text_weights(layer: Attention) -> int:
    return layer.to_k.weight.numel() + layer.to_v.weight.numel()


if __name__ == "__main__":
    main()
