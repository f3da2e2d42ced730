"""Omnidata's checkpoint (DPT-hybrid in MiDaS's code on timm) -> the same network in transformers."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from transformers import DPTConfig, DPTForDepthEstimation

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.errors import ModelFolderError

Weights = dict[str, Tensor]

_BLOCK = r"pretrained\.model\.blocks\.(\d+)\."
_BACKBONE = r"pretrained\.model\.patch_embed\.backbone\."
_NAMES = (
    (r"pretrained\.model\.(cls_token)", r"dpt.embeddings.\1"),
    (r"pretrained\.model\.(pos_embed)", r"dpt.embeddings.position_embeddings"),
    (r"pretrained\.model\.patch_embed\.proj\.(.+)", r"dpt.embeddings.projection.\1"),
    (_BACKBONE + r"stem\.conv\.(.+)", r"dpt.embeddings.backbone.bit.embedder.convolution.\1"),
    (_BACKBONE + r"stem\.norm\.(.+)", r"dpt.embeddings.backbone.bit.embedder.norm.\1"),
    (_BACKBONE + r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", r"dpt.embeddings.backbone.bit.encoder.stages.\1.layers.\2.\3"),
    (_BLOCK + r"norm1\.(.+)", r"dpt.encoder.layer.\1.layernorm_before.\2"),
    (_BLOCK + r"norm2\.(.+)", r"dpt.encoder.layer.\1.layernorm_after.\2"),
    (_BLOCK + r"attn\.proj\.(.+)", r"dpt.encoder.layer.\1.attention.output.dense.\2"),
    (_BLOCK + r"mlp\.fc1\.(.+)", r"dpt.encoder.layer.\1.intermediate.dense.\2"),
    (_BLOCK + r"mlp\.fc2\.(.+)", r"dpt.encoder.layer.\1.output.dense.\2"),
    (r"pretrained\.model\.norm\.(.+)", r"dpt.layernorm.\1"),
    (r"pretrained\.act_postprocess([34])\.0\.project\.0\.(.+)", r"neck.reassemble_stage.readout_projects.{-1}.0.\2"),
    (r"pretrained\.act_postprocess([34])\.3\.(.+)", r"neck.reassemble_stage.layers.{-1}.projection.\2"),
    (r"pretrained\.act_postprocess(4)\.4\.(.+)", r"neck.reassemble_stage.layers.{-1}.resize.\2"),
    (r"scratch\.layer([1-4])_rn\.(.+)", r"neck.convs.{-1}.\2"),
    (r"scratch\.refinenet([1-4])\.out_conv\.(.+)", r"neck.fusion_stage.layers.{4-}.projection.\2"),
    (r"scratch\.refinenet([1-4])\.resConfUnit([12])\.conv([12])\.(.+)", r"neck.fusion_stage.layers.{4-}.residual_layer\2.convolution\3.\4"),
    (r"scratch\.output_conv\.([024])\.(.+)", r"head.head.\1.\2"),
)
"""Names in the checkpoint -> names in transformers. ``{-1}`` is the first group less one, ``{4-}`` is four less it."""

_QKV = re.compile(_BLOCK + r"attn\.qkv\.(weight|bias)")
_UNUSED = ("pretrained.model.head.weight", "pretrained.model.head.bias")
"""The classifier of the backbone, which the normals do not come through."""


_PREFIX = "model."
"""Before every name in a checkpoint of Lightning."""


class _Ignored:
    """Stands for whatever else a checkpoint of Lightning names (its callbacks, its settings): it takes anything and does nothing."""

    def __new__(cls, *_arguments: object) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


def read_checkpoint(path: Path) -> Weights:
    """Read the weights of a Lightning checkpoint, or a file of weights only. Code that a pickle holds is not run.

    Classes that it names besides tensors are not looked up: harmless ones stand for them.
    Raises: ModelFolderError.
    """
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        stand_ins = [(dict if name.endswith("Dict") else _Ignored, name) for name in names]
        with safe_globals(stand_ins):  # pyright: ignore[reportArgumentType] - it takes pairs with names too
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFolderError(
            f"refused {str(path)!r}: it holds code, or is no checkpoint; expected omnidata_dpt_normal_v2.ckpt"
        ) from error
    except BROKEN as error:
        raise ModelFolderError(f"cannot read {str(path)!r}: {first_line(error)}; fetch it again") from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelFolderError(f"got {str(path)!r} without named tensors; expected omnidata_dpt_normal_v2.ckpt")
    return {str(name).removeprefix(_PREFIX): value for name, value in weights.items()}


def convert(weights: Weights, config: DPTConfig) -> DPTForDepthEstimation:
    """Build the network of transformers from weights in the checkpoint's layout.

    Its last layer has three channels, so that what it calls predicted depth is (B, 3, H, W).
    Raises: ModelFolderError if names or sizes do not fit.
    """
    network = DPTForDepthEstimation(config)
    before_last: Any = network.head.head[2]
    network.head.head[4] = nn.Conv2d(before_last.out_channels, 3, kernel_size=1)  # x, y, z
    renamed = {name: value for theirs, value in weights.items() if theirs not in _UNUSED for name, value in _renamed(theirs, value).items()}
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in renamed.items()}
    if got != expected:
        odd = min(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
        raise ModelFolderError(
            f"got weight {odd} of shape {got.get(odd, 'none')}, expected {expected.get(odd, 'none')}: this is no DPT-hybrid for normals"
        )
    network.load_state_dict(renamed)
    return network.eval()


def _renamed(theirs: str, value: Tensor) -> Weights:
    """Return one of their weights under our name; queries, keys and values are one matrix there and three here."""
    if match := _QKV.fullmatch(theirs):
        layer, kind = match.groups()
        ours = (f"dpt.encoder.layer.{layer}.attention.attention.{part}.{kind}" for part in ("query", "key", "value"))
        return dict(zip(ours, value.chunk(3), strict=True))
    for pattern, name in _NAMES:
        if match := re.fullmatch(pattern, theirs):
            first = match.group(1)
            if first.isdecimal():
                name = name.replace("{-1}", str(int(first) - 1)).replace("{4-}", str(4 - int(first)))
            return {match.expand(name): value}
    return {theirs: value}
