"""The text-to-image bases that can be extended, as diffusers saves them."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.checkpoints.index import pipeline_class, refuse_single_file
from jointnet.checkpoints.integrity import check_whole
from jointnet.checkpoints.opening import check_weights, reason_of
from jointnet.checkpoints.weight_files import variant_of
from jointnet.errors import ModelFolderError, UnsupportedBaseError
from jointnet.models.unet_branch import low_res_channels

SUPPORTED = {
    "StableDiffusionPipeline": "Stable Diffusion 1.x and 2.x",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "IFPipeline": "DeepFloyd-IF stage I",
    "IFSuperResolutionPipeline": "DeepFloyd-IF stage II",
}
"""diffusers' pipeline class -> what people call it."""

HUB_OPTIONS = ("cache_dir", "force_download", "token", "local_files_only", "revision")
_WITHOUT_IF_EXTRAS = {"safety_checker": None, "watermarker": None, "requires_safety_checker": False}
_KEPT = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler", "image_noising_scheduler")


def open_base(base: Any, **kwargs: Any) -> DiffusionPipeline:
    """A pipeline, or its folder or hub id (``kwargs`` go to from_pretrained) -> a pipeline of a supported class.

    DeepFloyd-IF's safety checker and watermarker are left out: they take its images only.
    Raises: UnsupportedBaseError, ModelFolderError.
    """
    if isinstance(base, DiffusionPipeline):
        if set(kwargs) - {"unet"}:
            raise TypeError(f"got {', '.join(kwargs)} with a base that is open already; expected them with a folder or a hub id only")
        check_class(type(base).__name__)
        return base
    name = ""
    refuse_single_file(base)
    try:
        if Path(base).is_dir():
            kwargs = {"variant": variant_of(Path(base)), **kwargs}
            name = pipeline_class(Path(base))
        else:
            config: Any = DiffusionPipeline.load_config(base, **{name: kwargs[name] for name in HUB_OPTIONS if name in kwargs})
            kind = config["_class_name"]
            name = str(kind[-1] if isinstance(kind, list) else kind)
        check_class(name)
        extras = _WITHOUT_IF_EXTRAS if name.startswith("IF") else {}
        if Path(base).is_dir():
            check_whole(Path(base), besides={*extras, *kwargs}, variant=kwargs["variant"])
        opened = DiffusionPipeline.from_pretrained(base, **{**extras, **kwargs})
    except (UnsupportedBaseError, ModelFolderError):
        raise
    except BROKEN as error:
        # without these transformers asks for other libraries, which do not help
        lacks = [library for library in ("sentencepiece", "google.protobuf") if name.startswith("IF") and not _is_installed(library)]
        reason = first_line(error)
        if lacks:
            reason = "its tokenizer needs: pip install 'jointnet[deepfloyd]'"
        elif Path(base).is_dir():
            reason = reason_of(error, Path(base))
        raise ModelFolderError(f"cannot open the base {str(base)!r}: {reason}") from error
    networks = {name: part for name, part in opened.components.items() if isinstance(part, nn.Module) and name not in kwargs}
    check_weights(Path(base), networks, named=("text_encoder", "text_encoder_2"))
    return opened


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # of the package that it lies in
        return False


def check_class(name: str) -> None:
    """Raises: UnsupportedBaseError."""
    if name not in SUPPORTED:
        listed = ", ".join(f"{cls} ({called})" for cls, called in SUPPORTED.items())
        raise UnsupportedBaseError(f"got a {name}; expected one of {listed}")


def check_fit(unet: UNet2DConditionModel, components: dict[str, Any]) -> None:
    """Check that a base's autoencoder and text encoder fit a U-Net from elsewhere. Raises: UnsupportedBaseError."""
    vae = components["vae"]
    encoders = [components[name] for name in ("text_encoder", "text_encoder_2") if components[name] is not None]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    needed = f"a checkpoint of {unet.config.in_channels} latent channels and a text {unet.config.cross_attention_dim} wide"
    if vae is None or vae.config.latent_channels != unet.config.in_channels:
        found = "no autoencoder" if vae is None else f"an autoencoder of {vae.config.latent_channels} latent channels"
        raise UnsupportedBaseError(f"got a base with {found} for {needed}; pass the base it was trained on")
    if encoders and width != unet.config.cross_attention_dim:
        raise UnsupportedBaseError(f"got a base with a text {width} wide for {needed}; pass the base it was trained on")


def check_prediction(scheduler: Any, predicted: str) -> None:
    """Check that a base's scheduler takes the predictions of a checkpoint. Raises: UnsupportedBaseError."""
    taken = scheduler.config.get("prediction_type", "epsilon")
    if taken != predicted:
        raise UnsupportedBaseError(
            f"got a base whose scheduler takes predictions of {taken} for a checkpoint that predicts {predicted}; "
            "pass the base it was trained on (the authors': Stable Diffusion 2.1-base)"
        )


def architecture(unet: UNet2DConditionModel) -> str:
    """Return the common name of the base that a U-Net belongs to."""
    if low_res_channels(unet):
        return SUPPORTED["IFSuperResolutionPipeline"]
    kinds = {"text": "IFPipeline", "text_time": "StableDiffusionXLPipeline"}
    if unet.config.addition_embed_type in kinds:
        return SUPPORTED[kinds[unet.config.addition_embed_type]]
    by_text_width = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
    return by_text_width.get(unet.config.cross_attention_dim, SUPPORTED["StableDiffusionPipeline"])


def components_of(base: DiffusionPipeline) -> dict[str, Any]:
    """Return the components and settings that a JointNetPipeline takes over from a base, all but its U-Net."""
    held = {name: getattr(base, name, None) for name in _KEPT}
    if not type(base).__name__.startswith("IF"):
        held |= {name: getattr(base, name, None) for name in ("safety_checker", "feature_extractor")}
    settings = {name: bool(base.config.get(name, False)) for name in ("force_zeros_for_empty_prompt", "requires_safety_checker")}
    settings["requires_safety_checker"] &= held.get("safety_checker") is not None
    guidance = inspect.signature(type(base).__call__).parameters["guidance_scale"].default
    return {**held, **settings, "default_guidance": guidance}
