"""What a user would train instead of a joint network, on the same feed: a ControlNet, and a U-Net that reads the image's latents."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from jointnet.models.direct_extend import wider
from jointnet.training.draws import DrawRule
from jointnet.training.joint_feed import JointBatch
from jointnet.training.trainer import Losses, Objective
from jointnet.types import Text


class OneMapObjective(Objective):
    """The error of one noised map's prediction, mean over the good samples of a batch.

    Attributes:
        noised: which of the batch's modalities is noised and predicted.
    """

    def __init__(self, rule: DrawRule, noised: int) -> None:
        super().__init__()
        self.rule, self.noised = rule, noised

    def counts(self, batch: JointBatch) -> Tensor:
        return batch.is_good.float().sum()[None]

    def losses(self, batch: JointBatch) -> Losses:
        device = next(self.parameters()).device
        assert batch.x0 is not None, "the feed has prepared it"
        assert batch.text is not None, "the text encoder is not trained along"
        x0 = batch.x0[:, self.noised : self.noised + 1]
        noise, t = batch.draws.noise[:, self.noised : self.noised + 1].to(device), batch.draws.levels.t[:, 0].to(device)
        process = self.rule.process
        predicted = self.predict(process.add_noise(x0, noise, t)[:, 0], t, batch.text, batch)
        errors = (predicted.float() - process.target(x0, noise, t)[:, 0]).square().mean((1, 2, 3))
        is_good = batch.is_good.to(device)
        return {"loss": (errors * is_good).sum() / is_good.sum().clamp(min=1)}

    def predict(self, noisy: Tensor, t: Tensor, text: Text, batch: JointBatch) -> Tensor:
        """Shapes: (B, C, h, w), (B,) -> (B, C, h, w)."""
        raise NotImplementedError


class ControlNetObjective(OneMapObjective):
    """diffusers' ControlNet on a frozen base: depth -> image. Source: Zhang & Agrawala (2023), Fig. 2(b) of the paper."""

    def __init__(self, unet: UNet2DConditionModel, rule: DrawRule) -> None:
        super().__init__(rule, noised=0)
        self.unet = copy.deepcopy(unet).requires_grad_(False)
        torch.manual_seed(0)
        self.controlnet = ControlNetModel.from_unet(unet)
        self.controlnet.requires_grad_(True)

    def predict(self, noisy: Tensor, t: Tensor, text: Text, batch: JointBatch) -> Tensor:
        assert batch.shown is not None, "the feed shows depth"
        condition = batch.shown["depth"].to(noisy.device).expand(-1, 3, -1, -1)
        down, mid = self.controlnet(noisy, t, text.embeds, controlnet_cond=condition, return_dict=False)
        return self.unet(noisy, t, text.embeds, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample


class ImageConditionedObjective(OneMapObjective):
    """A U-Net that reads the image's latents beside the noisy depth, without text. Source: Ke et al. (2024, Marigold), Sec. 3.2.

    Its first layer begins as the base's, twice and halved.
    """

    def __init__(self, unet: UNet2DConditionModel, rule: DrawRule, unconditional: Text) -> None:
        super().__init__(rule, noised=1)
        self.unet, self.unconditional = image_conditioned(unet), unconditional

    def predict(self, noisy: Tensor, t: Tensor, text: Text, batch: JointBatch) -> Tensor:  # noqa: ARG002 - it reads no text
        assert batch.x0 is not None, "the feed has prepared it"
        nothing = self.unconditional.embeds.to(noisy.device).expand(len(noisy), -1, -1)
        return self.unet(torch.cat([batch.x0[:, 0], noisy], 1), t, nothing).sample


def image_conditioned(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy that reads twice as many channels."""
    body = copy.deepcopy(unet).requires_grad_(True)
    first = cast(nn.Conv2d, unet.conv_in)
    body.conv_in = wider(first, nn.init.zeros_, in_groups=1)
    with torch.no_grad():
        body.conv_in.weight.copy_(first.weight.repeat(1, 2, 1, 1) / 2)
    body.register_to_config(in_channels=2 * unet.config.in_channels)
    return body


def controlnet_pipeline(pipeline: Any, objective: ControlNetObjective) -> Any:
    """The trained ControlNet in diffusers' own pipeline, with the components of a joint one."""
    from diffusers import StableDiffusionControlNetPipeline

    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    made = StableDiffusionControlNetPipeline(
        **parts,
        unet=objective.unet,
        controlnet=objective.controlnet,
        safety_checker=None,  # pyright: ignore[reportArgumentType] - optional, whatever its annotation says
        feature_extractor=None,  # pyright: ignore[reportArgumentType] - optional, whatever its annotation says
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def marigold_pipeline(pipeline: Any, objective: ImageConditionedObjective) -> Any:
    """The trained network in diffusers' Marigold pipeline, with DDIM."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline

    scheduler: Any = DDIMScheduler.from_config({**pipeline.scheduler.config, "timestep_spacing": "trailing", "set_alpha_to_one": False})
    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer")}
    made = MarigoldDepthPipeline(
        **parts, unet=objective.unet, scheduler=scheduler, prediction_type="disparity", scale_invariant=True, shift_invariant=True
    )
    made.set_progress_bar_config(disable=True)
    return made
