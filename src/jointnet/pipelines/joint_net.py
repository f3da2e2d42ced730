"""JointNetPipeline: the joint network with its text encoder, autoencoder and scheduler, in diffusers' manner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from jointnet.checkpoints.release import read_release
from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.codec import CodecTiles, LatentCodec
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.output import OUTPUT_TYPES, JointNetPipelineOutput, package
from jointnet.pipelines.run import Sampling, StepEnd, solve
from jointnet.pipelines.task import generate
from jointnet.pipelines.task_methods import TaskMethods
from jointnet.pipelines.text import encode_clip
from jointnet.sampling.steps import Generators
from jointnet.sampling.tiling import Tiling
from jointnet.types import Conditioning, Text


class JointNetPipeline(TaskMethods, DiffusionPipeline):
    """Text -> image and dense maps.

    Args:
        vae, text_encoder, tokenizer, scheduler: the base's own.
        joint_unet: the branches and their exchanges.
        depth_near_m: the distance at which a depth map reads 1, in metres, for models whose disparity has a scale (near / z); None: up to
            an affine map.
    """

    model_cpu_offload_seq = "text_encoder->joint_unet->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012 - diffusers reads a list

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    joint_unet: JointUNet

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        joint_unet: JointUNet,
        scheduler: Any,
        depth_near_m: float | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, joint_unet=joint_unet, scheduler=scheduler)
        self.register_to_config(depth_near_m=depth_near_m)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @classmethod
    def from_base(cls, base: Any, modalities: Sequence[str] = ("rgb", "depth"), **kwargs: Any) -> JointNetPipeline:
        """Extend a Stable Diffusion 1/2 pipeline (or its folder or hub id) to more modalities; untrained, it still generates its images.

        Args:
            base: a StableDiffusionPipeline, a folder or a hub id; ``kwargs`` go to its from_pretrained.
        Raises: UnsupportedBaseError, UnknownNameError.
        """
        if not isinstance(base, StableDiffusionPipeline):
            base = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False, **kwargs)
        return cls(
            vae=base.vae,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            joint_unet=JointUNet.from_unet(base.unet, modalities),
            scheduler=base.scheduler,
        )

    @classmethod
    def from_release(cls, folder: str | Path, base: str | Path, modality: str = "depth", **kwargs: Any) -> JointNetPipeline:
        """The authors' checkpoint (a folder with unet/ and jointnet/) on a Stable Diffusion 2.1-base folder or hub id.

        Args:
            modality: what the dense branch makes; ``kwargs`` go to the base's from_pretrained.
        Raises: ModelFolderError.
        """
        joint = read_release(Path(folder), modality)
        base_kwargs = {"safety_checker": None, "requires_safety_checker": False, "unet": None, **kwargs}
        pipeline = StableDiffusionPipeline.from_pretrained(base, **base_kwargs)
        return cls(
            vae=pipeline.vae,
            text_encoder=pipeline.text_encoder,
            tokenizer=pipeline.tokenizer,
            joint_unet=joint if joint.dtype == pipeline.vae.dtype else joint.to(pipeline.vae.dtype),
            scheduler=pipeline.scheduler,
        )

    @property
    def unet(self) -> UNet2DConditionModel:
        """The RGB branch, where adapters made for the base belong."""
        return self.joint_unet.branch("rgb")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the maps this model makes, "rgb" first."""
        return self.joint_unet.modalities

    @property
    def codec(self) -> LatentCodec:
        """Between maps and the state."""
        return LatentCodec(self.vae, device=self._execution_device)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @property
    def default_size(self) -> int:
        """Pixels along a side of the square images the base was made for."""
        return self.unet.config.sample_size * self.codec.factor

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        return self.codec.factor

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Prompts (or their given embeddings) and negative prompts -> ((B * num, L, D), the same or None).

        Raises: ShapeError if neither or both of prompt and prompt_embeds are given, or the counts differ.
        """
        if (prompt is None) == (prompt_embeds is None):
            raise ShapeError("got neither or both of prompt and prompt_embeds; pass one of them")
        clip = {"device": self._execution_device, "clip_skip": clip_skip}
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
            prompt_embeds = encode_clip(self.tokenizer, self.text_encoder, prompts, **clip)
        count = len(prompt_embeds)
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * count
            negative_prompt_embeds = encode_clip(self.tokenizer, self.text_encoder, negatives, **clip)
        if not do_classifier_free_guidance:
            negative_prompt_embeds = None
        if negative_prompt_embeds is not None and len(negative_prompt_embeds) != count:
            raise ShapeError(f"got {len(negative_prompt_embeds)} negative prompts for {count} prompts; pass one or as many")

        def repeated(embeds: Tensor) -> Tensor:
            return embeds.to(self._execution_device, self.joint_unet.dtype).repeat_interleave(num_images_per_prompt, 0)

        return repeated(prompt_embeds), None if negative_prompt_embeds is None else repeated(negative_prompt_embeds)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, L), padded to the text encoder's limit; longer prompts are cut."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids

    @torch.no_grad()
    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> text embeddings (B, L, D), as training reads them."""
        return self.text_encoder(ids).last_hidden_state

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        tiling: Tiling | None = None,
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Generate images and their dense maps from prompts. Arguments as in StableDiffusionPipeline.

        Args:
            height, width: pixels, multiples of ``size_multiple``; by default the size the base was made for.
            generator: one for the whole batch, or a list with one for each image: then a batch equals its single images.
            latents: initial noise (B, M * C, h, w), unscaled.
            guidance_scale: 1 turns guidance off.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); it may return changed tensors.
            tiling: for sizes beyond the base's: denoise in overlapping tiles, see ``self.tiling()``; None: the whole canvas at once.
        Raises: ShapeError, RangeError.
        Source: Sec. 3.1, 5.1.
        """
        height, width = (self.default_size if side is None else side for side in (height, width))
        self.check_size(height, width)
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        conditioning = self.condition_on(
            prompt,
            negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            guidance_scale=guidance_scale,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            clip_skip=clip_skip,
        )
        sampling = Sampling(
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            generator=generator,
            latents=latents,
            tiling=tiling,
            cross_attention_kwargs=cross_attention_kwargs,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        codec = self.codec_for(tiling)
        x = solve(self, generate((height, width)), codec, conditioning, sampling)
        if output_type == "latent":
            output = JointNetPipelineOutput(images=x.flatten(1, 2))
        else:
            output = package(codec.decode_all(x, self.modalities), output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def tiling(self, **changes: Any) -> Tiling:
        """Tiles of the size the base was made for; ``changes`` are fields of Tiling, such as wraps=True."""
        return Tiling(**{"window": self.unet.config.sample_size, **changes})

    def codec_for(self, tiling: Tiling | None) -> LatentCodec:
        """A codec that works in tiles, wrapping or not, where the denoiser does."""
        tiles = None if tiling is None else CodecTiles(window=tiling.window, wraps=tiling.wraps)
        return LatentCodec(self.vae, tiles, self._execution_device)

    def condition_on(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        *,
        num_images_per_prompt: int = 1,
        guidance_scale: float = 7.5,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
    ) -> Conditioning:
        """Encoded prompts as the denoiser takes them, at the start of a run."""
        self._guidance_scale, self._interrupt = guidance_scale, False
        positive, negative = self.encode_prompt(
            prompt, negative_prompt, num_images_per_prompt, guidance_scale != 1, prompt_embeds, negative_prompt_embeds, clip_skip
        )
        return Conditioning(Text(positive), None if negative is None else Text(negative))

    def check_output(self, output_type: str, callback_inputs: Sequence[str]) -> None:
        """Raises: RangeError."""
        if output_type not in OUTPUT_TYPES:
            raise RangeError(f"got output_type {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
        unknown = set(callback_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise RangeError(f"got callback tensor inputs {sorted(unknown)}; expected some of {self._callback_tensor_inputs}")

    def check_size(self, height: int, width: int) -> None:
        """Raises: ShapeError."""
        multiple = self.size_multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (height, width))
            raise ShapeError(f"got a size of {height}x{width}; expected multiples of {multiple}, such as {nearest}")
