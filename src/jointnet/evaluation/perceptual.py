"""Perceptual distances by name: ``lpips:FILE`` with the weights of torchvision's VGG16, and ``eff-lite0``, which can be had offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.errors import MissingPackageError, ModelFolderError, UnknownNameError
from jointnet.evaluation.features import EffLite0

DISTANCES = ("eff-lite0", "lpips")


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance of pictures.

    Attributes:
        name: what it may be called; words: network, weights, size.
        measure: (B, 3, H, W) in [-1, 1] twice -> (B,), differentiable.
    """

    name: str
    words: str
    network: nn.Module
    measure: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.measure(a, b)


def open_distance(text: str) -> Distance:
    """Open a distance by NAME or NAME:WEIGHTS. Raises: UnknownNameError, ModelFolderError, MissingPackageError."""
    name, _, weights = text.partition(":")
    if name == "eff-lite0":
        net = EffLite0()

        def measure(a: Tensor, b: Tensor) -> Tensor:
            """Mean squared difference of the unit feature vectors of each place, summed over depths: LPIPS without its learned weights."""
            pairs = zip(net.maps((a + 1) / 2), net.maps((b + 1) / 2), strict=True)
            return torch.stack([(normalize(x, dim=1) - normalize(y, dim=1)).square().sum(1).mean((1, 2)) for x, y in pairs]).sum(0)

        return Distance(
            "EffLite0 distance", "EfficientNet-Lite0 feature maps of five depths, unit vectors, no learned weights", net, measure
        )
    if name == "lpips":
        return _lpips(weights)
    raise UnknownNameError(f"got distance {text!r}; expected one of {', '.join(DISTANCES)}, with its weights after a colon")


def _lpips(weights: str) -> Distance:
    """LPIPS (VGG) of torchmetrics, whose learned weights come with it. Source: Zhang et al. (2018)."""
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
    except ImportError as error:
        raise MissingPackageError("LPIPS needs torchmetrics; install the extra: pip install 'jointnet[eval]'") from error
    if weights and not Path(weights).is_file():
        raise ModelFolderError(f"got lpips:{weights}, which is no file; expected the weights of torchvision's VGG16 (vgg16-397923af.pth)")
    try:
        net = _LPIPS(pretrained=True, net="vgg", pnet_rand=bool(weights))
        if weights:
            stored = torch.load(weights, weights_only=True, map_location="cpu")
            net.net.load_state_dict({name: stored[_of_torchvision(name)] for name in net.net.state_dict()})
    except (*BROKEN, RuntimeError, KeyError) as error:
        raise ModelFolderError(f"cannot load VGG16's weights {weights!r}: {first_line(error)}; expected vgg16-397923af.pth") from error
    net.eval().requires_grad_(False)
    words = f"LPIPS (VGG) of torchmetrics, backbone {Path(weights).name if weights else 'of torchvision'}"
    return Distance("LPIPS", words, net, lambda a, b: net(a, b).flatten())


def _of_torchvision(name: str) -> str:
    """slice2.5.weight -> features.5.weight."""
    return f"features.{name.partition('.')[2]}"
