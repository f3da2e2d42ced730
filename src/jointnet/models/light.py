"""Dense branches that weigh less than a copy of the base's U-Net: its own weights with changes of low rank, or a thinner copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import lcm
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from jointnet.models.branch_kinds import BranchKind


def dense_unet(kind: BranchKind, rgb: UNet2DConditionModel) -> UNet2DConditionModel:
    """A dense branch's U-Net, beginning with what the RGB branch's knows; whatever it has of its own is trainable."""
    if kind.rank:
        return sharing(rgb, kind.rank)
    if kind.share < 1:
        return thinned(rgb, kind.share)
    return copy.deepcopy(rgb)


# Changes of low rank


class LowRank(nn.Module):
    """A layer of another network, and a change of low rank to what it gives, which begins as none (Hu et al., 2021).

    The layer stays the other network's: it is neither moved, trained nor saved with this one.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self._of_another = (layer,)  # a module in a tuple is no child
        out_channels, in_channels = layer.weight.shape[:2]
        rank = min(rank, out_channels, in_channels)
        factory: dict[str, Any] = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(layer, nn.Conv2d):
            where: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            self.down = nn.Conv2d(in_channels, rank, **where, **factory)
            self.up = nn.Conv2d(rank, out_channels, 1, **factory)
        else:
            self.down, self.up = nn.Linear(in_channels, rank, **factory), nn.Linear(rank, out_channels, **factory)
        nn.init.zeros_(cast(Tensor, self.up.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self._of_another[0](x) + self.up(self.down(x))


def sharing(unet: UNet2DConditionModel, rank: int) -> UNet2DConditionModel:
    """A U-Net that runs another's layers, each with a change of low rank.

    First and last layer, norms and whatever else has weights are copies: they are small, and another kind of map passes through them. The
    changes are drawn from a seed of their own, so that a base gives the same branch each time.
    """
    with torch.device("meta"):
        shared = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(unet.config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        changes = {
            name: LowRank(module, rank)
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and name not in ("conv_in", "conv_out")
        }
    for name, module in list(unet.named_modules()):
        if name in changes:
            shared.set_submodule(name, changes[name])
            continue
        own = shared.get_submodule(name)
        for key, value in module.named_parameters(recurse=False):
            own.register_parameter(key, nn.Parameter(value.detach().clone()))
        for key, value in module.named_buffers(recurse=False):
            own.register_buffer(key, value.clone(), persistent=key not in module._non_persistent_buffers_set)
    return shared.train(unet.training)


# Thinner copies


def thin_config(config: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The config of a U-Net with about a share of the channels of each level; all that meets the text or the picture keeps its size."""
    levels = config["block_out_channels"]
    groups = config["norm_num_groups"] or 1
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    of_level = list(heads) if isinstance(heads, list | tuple) else [heads] * len(levels)
    is_head_size = "SimpleCrossAttn" in "".join(config["down_block_types"])  # there the number is channels a head
    if not is_head_size and isinstance(heads, list | tuple):
        of_level = [max(1, round(share * count)) for count in of_level]
    units = [lcm(groups, unit) for unit in of_level]
    channels = [max(unit, round(share * level / unit) * unit) for level, unit in zip(levels, units, strict=True)]
    changed: dict[str, Any] = {"block_out_channels": channels}
    if isinstance(heads, list | tuple):
        changed["num_attention_heads" if config["num_attention_heads"] else "attention_head_dim"] = of_level
    if config.get("time_embedding_dim"):
        changed["time_embedding_dim"] = 4 * channels[0]
    return {**config, **changed}


@torch.no_grad()
def thinned(unet: UNet2DConditionModel, share: float) -> UNet2DConditionModel:
    """A U-Net with a share of another's channels, evenly picked from it.

    Sums over fewer channels are scaled up to what they were. It is a start for distillation, and draws little by itself.
    """
    with torch.device("meta"):
        thin = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(thin_config(unet.config, share)))
    whole = unet.state_dict()
    picked = {name: _picked(whole[name], value.shape, name.endswith("weight")) for name, value in thin.state_dict().items()}
    thin.load_state_dict({name: value.clone() for name, value in picked.items()}, assign=True)
    return thin.requires_grad_(True).train(unet.training)


def _picked(weight: Tensor, shape: torch.Size, is_weight: bool) -> Tensor:
    for axis, (size, kept) in enumerate(zip(weight.shape, shape, strict=True)):
        if kept != size:
            weight = weight.index_select(axis, torch.arange(kept, device=weight.device) * size // kept)
            if axis == 1 and is_weight:
                weight = weight * (size / kept)
    return weight
