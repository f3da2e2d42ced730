"""A labeler that is one network which reads squares of one size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.data.labelers.labeler import check_pictures
from jointnet.data.labelers.quantiles import HIGH, LOW, quantiles_to_01
from jointnet.errors import ModelFolderError
from jointnet.files.fingerprints import of_config, of_texts, of_weights
from jointnet.modalities import get_modality
from jointnet.modalities.modality import resize_picture, resize_smooth

Triple = tuple[float, float, float]
PAPER_SIZE = 384
"""Pixels a side at which MiDaS and Omnidata read a picture (Sec. 3.3)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkLabeler:
    """One network that estimates a map from a square picture.

    Attributes:
        name: of the labeler; modality: of its maps.
        size: pixels a side at which it reads; pictures are resized to it whatever their aspect.
        mean, std: a picture's values become (value - mean) / std.
        read: the network and normalised squares (B, 3, size, size) -> raw maps (B, c, s, s) in our direction of axes.
    """

    name: str
    modality: str
    network: PreTrainedModel
    size: int
    mean: Triple
    std: Triple
    read: Callable[[Any, Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> NetworkLabeler:
        """Move the network, and return this labeler."""
        nn.Module.to(self.network, device)
        return self

    def __call__(self, rgb: Tensor) -> Tensor:
        """Estimate maps: the raw ones, brought to the modality's range.

        Shapes: (B, 3, H, W) in [0, 1] -> depth (B, 1, H, W) in [0, 1], normals (B, 3, H, W) of length 1, on the pictures' device.
        Raises: ShapeError.
        """
        return finish(self.modality, self.raw(rgb))

    @torch.no_grad()
    def raw(self, rgb: Tensor) -> Tensor:
        """What the network says of pictures resized to its square, resized to the pictures: (B, c, H, W). Raises: ShapeError."""
        check_pictures(rgb)
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (self.mean, self.std))
        squares = resize_picture(rgb.to(self.device, torch.float32), (self.size, self.size))
        raw = self.read(self.network, (squares - mean) / std).float()  # (B, c, s, s)
        return resize_smooth(raw, (rgb.shape[-2], rgb.shape[-1])).to(rgb.device)

    def fingerprint(self) -> str:
        """Return name, weights, and a hash of the config, the size and the rules by which maps are scaled."""
        settings = (str(self.size), str(self.mean), str(self.std), self.read.__name__, str((LOW, HIGH)))
        return f"{self.name} {of_weights(self.network)} {of_texts((*settings, *of_config(self.network.config.to_diff_dict())))}"


def finish(modality: str, raw: Tensor) -> Tensor:
    """Bring raw maps to the range of a modality: depth by its quantiles, normals to length 1. Shapes: (B, c, H, W) -> the same."""
    return quantiles_to_01(raw) if modality == "depth" else get_modality(modality).settle(raw)


def open_transformers(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Open a network of transformers in float32, from its folder only.

    Raises: ModelFolderError if it is of another kind, broken or incomplete.
    """
    stated = _json(folder / "config.json").get("architectures") or [kind.__name__]
    if kind.__name__ not in stated:
        raise ModelFolderError(f"got a {stated[0]} in {str(folder)!r}; expected a {kind.__name__}")
    try:
        network, info = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues] - a pair with output_loading_info
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the {kind.__name__} in {str(folder)!r}: {first_line(error)}; fetch it again") from error
    lacking = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
    if lacking:
        raise ModelFolderError(f"got no weight {lacking[0]} in {str(folder)!r} ({len(lacking)} are missing); fetch it again")
    return network.eval()


def normalisation(folder: Path, mean: Triple, std: Triple) -> tuple[Triple, Triple]:
    """Return mean and std that a folder's preprocessor_config.json states; without the file those passed."""
    stated = _json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    return tuple(stated.get("image_mean", mean)), tuple(stated.get("image_std", std))


def _json(path: Path) -> dict[str, Any]:
    """Raises: ModelFolderError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read {str(path)!r}: {first_line(error)}; expected a folder as the hub has it") from error
    return value if isinstance(value, dict) else {}
