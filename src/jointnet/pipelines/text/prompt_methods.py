"""The pipeline's methods that turn prompts into what the denoiser is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.text.choose import prompt_encoder, scaled_adapters
from jointnet.pipelines.text.encoder import PromptEncoder
from jointnet.pipelines.text.prompts import Prompt, unconditional
from jointnet.types import Conditioning, Text

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline


class PromptMethods:
    """Mixed into JointNetPipeline."""

    @property
    def prompt_encoder(self) -> PromptEncoder | None:
        """Words -> text, as the base's text encoders do; None if there are none."""
        return prompt_encoder(cast("JointNetPipeline", self))

    def training_text(self) -> tuple[PromptEncoder, Text]:
        """What training reads prompts with, and the text, one row, of a sample whose prompt is dropped.

        Raises: ShapeError without a text encoder.
        """
        encoder = self.prompt_encoder
        if encoder is None:
            raise ShapeError("got a pipeline without a text encoder; training needs one")
        return encoder, unconditional(encoder, zeros_for_empty=cast("JointNetPipeline", self).config.force_zeros_for_empty_prompt)

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Prompts (or their embeddings) -> prompt_embeds and, with guidance, negative_prompt_embeds, (B * num, L, D) each.

        For bases that read a pooled text (SDXL), as their own pipeline does, also pooled_prompt_embeds and negative_pooled_prompt_embeds
        (B * num, D).
        Raises: ShapeError if neither or both of prompt and prompt_embeds are given, or the counts differ.
        """
        said = Prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            clip_skip=clip_skip,
        )
        text, negative = self._encode(said, num_images_per_prompt, do_classifier_free_guidance, lora_scale, device)
        embeds = (text.embeds, None if negative is None else negative.embeds)
        if "text_embeds" not in text.added:
            return embeds
        return *embeds, text.added["text_embeds"], None if negative is None else negative.added["text_embeds"]

    def condition_on(
        self, said: Prompt, *, guidance_scale: float, num_images_per_prompt: int = 1, lora_scale: float | None = None
    ) -> Conditioning:
        """Encoded prompts as the denoiser takes them; a scale up to 1 is no guidance, as in diffusers."""
        return Conditioning(*self._encode(said, num_images_per_prompt, guidance_scale > 1, lora_scale))

    def _encode(
        self, said: Prompt, num_images: int, guided: bool, lora_scale: float | None, device: torch.device | None = None
    ) -> tuple[Text, Text | None]:
        pipeline = cast("JointNetPipeline", self)
        device = device or pipeline._execution_device
        with scaled_adapters(pipeline, lora_scale):
            pair = said.encode(self.prompt_encoder, guided=guided, zeros_for_empty=pipeline.config.force_zeros_for_empty_prompt)
        network: JointUNet | None = pipeline.joint_unet  # None where only prompts are encoded
        if network is not None and network.reads_sizes and any(text is not None and not text.added for text in pair):
            raise ShapeError("got embeddings without pooled ones for a base that reads both; pass pooled_prompt_embeds too")

        def repeated(value: Tensor) -> Tensor:
            return value.to(device, value.dtype if network is None else network.dtype).repeat_interleave(num_images, 0)

        text, negative = pair
        return text.mapped(repeated), None if negative is None else negative.mapped(repeated)
