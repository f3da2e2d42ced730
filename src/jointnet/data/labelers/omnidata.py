"""Omnidata's DPT-hybrid: surface normals, as in the paper (Sec. 3.3)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import DPTConfig, DPTForDepthEstimation

from jointnet.data.labelers.network import NetworkLabeler
from jointnet.data.labelers.omnidata_layout import convert, read_checkpoint
from jointnet.errors import ModelFolderError


def published_config() -> DPTConfig:
    """Return the sizes of ``DPTDepthModel(backbone="vitb_rn50_384", num_channels=3)``."""
    return DPTConfig(
        is_hybrid=True,
        backbone_config={
            "model_type": "bit",
            "depths": [3, 4, 9],
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage1", "stage2", "stage3"],
        },
        neck_hidden_sizes=[256, 512, 768, 768],
        reassemble_factors=[1, 1, 1, 0.5],
        layer_norm_eps=1e-6,  # timm's
    )


def omnidata(modality: str, path: Path, config: DPTConfig | None = None) -> NetworkLabeler:
    """Open a checkpoint of Omnidata's normals, as published: omnidata_dpt_normal_v2.ckpt or omnidata_normal_dpt_hybrid.pth.

    Pictures are not normalised: the network was trained on [0, 1].
    Args:
        config: of a network of other sizes than the published one.
    Raises: ModelFolderError.
    Source: Eftekhar et al. 2021, Kar et al. 2022.
    """
    weights = read_checkpoint(path)
    try:
        network = convert(weights, config or published_config())
    except ModelFolderError as error:
        raise ModelFolderError(f"{str(path)!r}: {error}") from error
    size = int(network.config.image_size)  # pyright: ignore[reportArgumentType] - one number in this config
    no_shift, no_scale = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return NetworkLabeler(
        name="omnidata", modality=modality, network=network, size=size, mean=no_shift, std=no_scale, read=predicted_normals
    )


def predicted_normals(network: DPTForDepthEstimation, squares: Tensor) -> Tensor:
    """Estimate normals and turn them into our axes.

    The network writes (n + 1) / 2 with x right, y down, z away from the camera: a floor is (0, -1, 0), a wall that faces the camera
    (0, 0, -1), as its authors' loader takes them and as they were read off its output (github.com/maturk/dn-splatter/issues/9). Ours are
    x right, y up, z towards the camera.
    Shapes: (B, 3, s, s) -> (B, 3, s, s).
    """
    theirs = network(squares).predicted_depth.clamp(0, 1) * 2 - 1
    return theirs * theirs.new_tensor([1.0, -1.0, -1.0])[:, None, None]
