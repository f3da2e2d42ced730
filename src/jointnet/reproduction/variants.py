"""What is compared: networks and the one change that each makes to JointNet's training. All start from the same base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from diffusers import UNet2DConditionModel

from jointnet.models.direct_extend import DirectExtend
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import TrainConfig

Kind = Literal["joint", "controlnet", "image-conditioned", "rgbd-autoencoder"]
BuildNetwork = Callable[[UNet2DConditionModel, int], "JointUNet | DirectExtend"]
"""(the base's U-Net, seed) -> a network that takes a JointUNet's place."""


def _as_it_is(config: TrainConfig) -> TrainConfig:
    return config


def _all_trained(config: TrainConfig) -> TrainConfig:
    return replace(config, freeze_rgb=False)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One trained thing.

    Attributes:
        about: what it is, in a few words, for tables.
        kind: what is trained, and so how it samples.
        build: its network, of kind "joint".
        change: of stage 1's settings.
        dense: the map besides RGB.
        is_inverse: it is trained on 1 - disparity: near is dark.
    """

    about: str
    kind: Kind = "joint"
    build: BuildNetwork = lambda unet, _: JointUNet.from_unet(unet)
    change: Callable[[TrainConfig], TrainConfig] = _as_it_is
    dense: str = "depth"
    is_inverse: bool = False


def _direct(output: Literal["zeros", "random", "copy"]) -> Variant:
    return Variant(
        about=f"Direct Extend (Fig. 2a), output layer from {'a copy' if output == 'copy' else output}",
        build=lambda unet, seed: DirectExtend.from_unet(unet, output=output, seed=seed),
        change=_all_trained,
    )


def _without(part: str) -> Variant:
    exchanged = tuple(name for name in ("input", "skips", "mid") if name != part)
    return Variant(
        about=f"no exchange at the {'mid block' if part == 'mid' else part}",
        build=lambda unet, _: JointUNet.from_unet(unet, exchanged=exchanged),
    )


VARIANTS: dict[str, Variant] = {
    "jointnet": Variant(about="JointNet, stage 1"),
    "jointnet-normal": Variant(
        about="JointNet, stage 1, normals", build=lambda unet, _: JointUNet.from_unet(unet, ("rgb", "normal")), dense="normal"
    ),
    "direct-copy": _direct("copy"),
    "direct-zeros": _direct("zeros"),
    "direct-random": _direct("random"),
    "ldm3d-style": Variant(about="LDM3D's way: one autoencoder of RGBD, one U-Net", kind="rgbd-autoencoder"),
    "independent": Variant(about="two branches without exchange", build=lambda unet, _: JointUNet.from_unet(unet, routes=())),
    "rgb-to-depth": Variant(
        about="exchange from RGB to depth only", build=lambda unet, _: JointUNet.from_unet(unet, routes=("rgb_to_depth",))
    ),
    "depth-to-rgb": Variant(
        about="exchange from depth to RGB only", build=lambda unet, _: JointUNet.from_unet(unet, routes=("depth_to_rgb",))
    ),
    "no-input": _without("input"),
    "no-skips": _without("skips"),
    "no-mid": _without("mid"),
    "no-noise-offset": Variant(about="no noise offset", change=lambda config: replace(config, noise_offset=0.0)),
    "min-snr": Variant(about="min-SNR, gamma 5", change=lambda config: replace(config, min_snr_gamma=5.0)),
    "near-dark": Variant(about="near is dark: trained on 1 - disparity", is_inverse=True),
    "controlnet": Variant(about="diffusers' ControlNet, depth -> image", kind="controlnet"),
    "marigold-style": Variant(about="Marigold's way: image latents at the input, image -> depth", kind="image-conditioned"),
}
"""By name. Each is trained with the same number of steps, batch and rate."""
