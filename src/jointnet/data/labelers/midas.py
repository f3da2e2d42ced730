"""MiDaS v3 with DPT-hybrid: disparity, as in the paper (Sec. 3.3)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import DPTForDepthEstimation

from jointnet.data.labelers.network import PAPER_SIZE, NetworkLabeler, normalisation, open_transformers

_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def midas(modality: str, folder: Path) -> NetworkLabeler:
    """Open Intel/dpt-hybrid-midas, or another DPT for depth in transformers' form.

    It estimates disparity up to scale and shift, large is near: only the quantiles are mapped to [0, 1].
    Raises: ModelFolderError.
    Source: Ranftl et al. 2021, "Vision Transformers for Dense Prediction".
    """
    network = open_transformers(DPTForDepthEstimation, folder)
    mean, std = normalisation(folder, _MEAN, _STD)
    size = network.config.image_size or PAPER_SIZE
    return NetworkLabeler(name="midas", modality=modality, network=network, size=size, mean=mean, std=std, read=predicted_disparity)


def predicted_disparity(network: DPTForDepthEstimation, squares: Tensor) -> Tensor:
    """Shapes: (B, 3, s, s) -> (B, 1, s, s)."""
    return network(squares).predicted_depth[:, None]
