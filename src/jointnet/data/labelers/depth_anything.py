"""Depth Anything V2: disparity."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import DepthAnythingForDepthEstimation

from jointnet.data.labelers.network import NetworkLabeler, normalisation, open_transformers

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NEAREST_M = 1e-3
"""Nearer than any camera sees: bounds the disparity of models that estimate metres."""


def depth_anything(modality: str, folder: Path) -> NetworkLabeler:
    """Open a Depth Anything (V1 or V2) in transformers' form; it reads squares of its backbone's size, 518 px as published.

    Relative models estimate disparity up to scale and shift, large is near; metric ones metres, whose reciprocal is disparity.
    Raises: ModelFolderError.
    Source: Yang et al. 2024, "Depth Anything V2".
    """
    network = open_transformers(DepthAnythingForDepthEstimation, folder)
    mean, std = normalisation(folder, _MEAN, _STD)
    size = network.config.backbone_config.image_size
    read = relative_disparity if network.config.depth_estimation_type == "relative" else metric_disparity
    return NetworkLabeler(name="depth-anything", modality=modality, network=network, size=size, mean=mean, std=std, read=read)


def relative_disparity(network: DepthAnythingForDepthEstimation, squares: Tensor) -> Tensor:
    """Shapes: (B, 3, s, s) -> (B, 1, s, s)."""
    return network(squares).predicted_depth[:, None]


def metric_disparity(network: DepthAnythingForDepthEstimation, squares: Tensor) -> Tensor:
    """Shapes: (B, 3, s, s) -> (B, 1, s, s), in 1 / metres."""
    return 1 / network(squares).predicted_depth[:, None].clamp(min=_NEAREST_M)
