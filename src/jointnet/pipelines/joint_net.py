"""JointNetPipeline: the joint network with its text encoder, autoencoder and scheduler, in diffusers' manner."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from huggingface_hub import create_repo, snapshot_download
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from jointnet.checkpoints.card import keep_side_files, write_card
from jointnet.checkpoints.release import read_release
from jointnet.errors import ModelFolderError, RangeError, ShapeError
from jointnet.modalities.codec import Codec, CodecTiles, LatentCodec, MissingCodec, PixelCodec
from jointnet.modalities.modality import get_modality
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import DEFAULT_NOISE_LEVEL
from jointnet.pipelines.bases import HUB_OPTIONS, check_fit, check_prediction, components_of, open_base
from jointnet.pipelines.conventions import PAPER, Conventions
from jointnet.pipelines.low_res import SmallMaps
from jointnet.pipelines.output import OUTPUT_TYPES, JointNetPipelineOutput, package
from jointnet.pipelines.run import Sampling, StepEnd, solve, tensors_shown
from jointnet.pipelines.safety import censored
from jointnet.pipelines.task import generate
from jointnet.pipelines.task_methods import TaskMethods
from jointnet.pipelines.text.prompt_methods import PromptMethods
from jointnet.pipelines.text.prompts import Prompt
from jointnet.sampling.steps import Generators
from jointnet.sampling.tiling import Tiling


class JointNetPipeline(
    TaskMethods, PromptMethods, StableDiffusionMixin, TextualInversionLoaderMixin, StableDiffusionXLLoraLoaderMixin, DiffusionPipeline
):
    """Text -> image and dense maps.

    Adapters made for the base (LoRA, textual inversion, FreeU) act on the RGB branch. What a base does not have is None.

    Args:
        vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, scheduler, image_noising_scheduler, safety_checker,
            feature_extractor: the base's own.
        joint_unet: the branches and their exchanges.
        depth_near_m: the distance at which a depth map reads 1, in metres, for models whose disparity has a scale (near / z); None: up to
            an affine map.
        default_guidance: the guidance scale where none is asked for; 7.5 as in StableDiffusionPipeline, or what suits the model.
        force_zeros_for_empty_prompt, requires_safety_checker: as the base's pipeline has them.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->joint_unet->vae"
    _optional_components = [  # noqa: RUF012 - diffusers reads a list
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "image_noising_scheduler",
        "safety_checker",
        "feature_extractor",
    ]
    _exclude_from_cpu_offload = ["safety_checker"]  # noqa: RUF012 - diffusers reads a list
    _callback_tensor_inputs = [  # noqa: RUF012 - diffusers reads a list
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
        "add_text_embeds",
        "add_time_ids",
    ]

    vae: AutoencoderKL | None
    text_encoder: Any
    tokenizer: Any
    text_encoder_2: CLIPTextModelWithProjection | None
    tokenizer_2: CLIPTokenizer | None
    joint_unet: JointUNet
    scheduler: Any
    image_noising_scheduler: Any
    safety_checker: Any
    feature_extractor: Any

    def __init__(
        self,
        vae: AutoencoderKL | None,
        text_encoder: CLIPTextModel | T5EncoderModel | None,
        tokenizer: Any,
        joint_unet: JointUNet,
        scheduler: Any,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: Any = None,
        image_noising_scheduler: Any = None,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        depth_near_m: float | None = None,
        default_guidance: float = 7.5,
        force_zeros_for_empty_prompt: bool = False,
        requires_safety_checker: bool = False,
    ) -> None:
        super().__init__()
        if safety_checker is not None and feature_extractor is None:
            raise ModelFolderError("got a safety checker without a feature extractor, which it cannot see without; pass both, or neither")
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            joint_unet=joint_unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            image_noising_scheduler=image_noising_scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(
            depth_near_m=depth_near_m,
            default_guidance=default_guidance,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            requires_safety_checker=requires_safety_checker,
        )
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @classmethod
    def from_base(cls, base: Any, modalities: Sequence[str] = ("rgb", "depth"), **kwargs: Any) -> JointNetPipeline:
        """Extend a text-to-image pipeline to more modalities; untrained, it still generates its images.

        Args:
            base: a Stable Diffusion 1/2, SDXL or DeepFloyd-IF pipeline, its folder or hub id; ``kwargs`` go to its from_pretrained.
        Raises: UnsupportedBaseError, ModelFolderError, UnknownNameError.
        """
        for name in modalities:
            get_modality(name)
        opened = open_base(base, **kwargs)
        return cls(joint_unet=JointUNet.from_unet(opened.unet, modalities), **components_of(opened))

    @classmethod
    def from_release(cls, folder: str | Path, base: Any, modality: str | None = None, **kwargs: Any) -> JointNetPipeline:
        """The authors' checkpoint (a folder with unet/ and jointnet/, or its zip) on a Stable Diffusion 2.1-base, by folder or hub id.

        Args:
            modality: what the dense branch makes; by default what the files say, or depth, since the authors' do not say it.
            kwargs: go to the base's from_pretrained.
        Raises: ModelFolderError, UnsupportedBaseError, UnknownNameError.
        """
        if modality is not None:
            get_modality(modality)
        release = read_release(Path(folder), modality)
        joint = release.joint_unet
        components = components_of(open_base(base, **{"unet": None, **kwargs}))
        check_fit(joint.branch("rgb"), components)
        check_prediction(components["scheduler"], release.prediction_type)
        dtype = components["vae"].dtype
        return cls(joint_unet=joint if joint.dtype == dtype else joint.to(dtype), **components)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> JointNetPipeline:
        """As DiffusionPipeline does, from a folder or a hub id; what is on the hub is fetched whole, no code of it is run."""
        path = pretrained_model_name_or_path
        if not Path(path).is_dir():
            path = snapshot_download(str(path), **{name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs})
        return cast(JointNetPipeline, super().from_pretrained(path, **kwargs))

    def save_pretrained(self, save_directory: str | os.PathLike, *arguments: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As DiffusionPipeline does; adds a model card, the provenance of the folder it was loaded from, and ``pipeline.py``."""
        folder = Path(save_directory)
        hub = {name: kwargs.pop(name) for name in ("repo_id", "private", "token", "commit_message", "create_pr") if name in kwargs}
        super().save_pretrained(save_directory, *arguments, **kwargs)
        keep_side_files(self.name_or_path, folder)
        write_card(folder)
        if push_to_hub:
            repo = {"private": hub.pop("private", None), "token": hub.get("token")}
            repo_id = create_repo(hub.pop("repo_id", folder.name), exist_ok=True, **repo).repo_id
            self._upload_folder(folder, repo_id, **hub)

    @property
    def unet(self) -> UNet2DConditionModel:
        """The RGB branch, where adapters made for the base belong."""
        return self.joint_unet.branch("rgb")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the maps this model makes, "rgb" first."""
        return self.joint_unet.modalities

    @property
    def codec(self) -> Codec:
        """Between maps and the state."""
        return self.codec_for(None)

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
        return self._window * self.codec.factor

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        return 2**self.unet.num_upsamplers if self.joint_unet.in_channels == PixelCodec.channels else self.codec.factor

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        tiling: Tiling | None = None,
        conventions: Conventions = PAPER,
        low_res: SmallMaps | None = None,
        noise_level: int = DEFAULT_NOISE_LEVEL,
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Generate images and their dense maps from prompts. Arguments as in StableDiffusionPipeline.

        Args:
            height, width: pixels, multiples of ``size_multiple``; by default the size the base was made for.
            generator: one for the whole batch, or a list with one for each image: then a batch equals its single images.
            latents: initial noise (B, M * C, h, w), unscaled.
            guidance_scale: by default the model's own (``config.default_guidance``); 1 or less turns guidance off.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); it may return changed tensors.
            tiling: for sizes beyond the base's: denoise in overlapping tiles, see ``self.tiling()``; None: the whole canvas at once.
            conventions: PAPER, or RELEASE to do as the authors' code does.
            low_res: for bases that upscale (DeepFloyd-IF stage II): the smaller maps by modality, or what the first stage returned.
            noise_level: the timestep ``low_res`` is noised to.
        Raises: ShapeError, RangeError.
        Source: Sec. 3.1, 5.1.
        """
        height, width = (self.default_size if side is None else side for side in (height, width))
        self.check_size(height, width)
        self.check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        guidance_scale = self.config.default_guidance if guidance_scale is None else guidance_scale
        said = Prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            clip_skip=clip_skip,
        )
        conditioning = self.condition_on(
            said,
            num_images_per_prompt=num_images_per_prompt,
            guidance_scale=guidance_scale,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
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
            conventions=conventions,
            cross_attention_kwargs=cross_attention_kwargs,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            low_res=low_res,
            noise_level=noise_level,
        )
        codec = self.codec_for(tiling, conventions)
        x = solve(self, generate((height, width)), codec, conditioning, sampling)
        if output_type == "latent":
            output = JointNetPipelineOutput(images=x.flatten(1, 2))
        else:
            maps, flagged = censored(self, codec.decode_all(x, self.modalities))
            output = package(maps, output_type, flagged=flagged)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def tiling(self, **changes: Any) -> Tiling:
        """Tiles of the size the base was made for; ``changes`` are fields of Tiling, such as wraps=True."""
        return Tiling(**{"window": self._window, **changes})

    @property
    def _window(self) -> int:
        """The side of the base's own state; some say both sides."""
        side = self.unet.config.sample_size
        return side if isinstance(side, int) else min(side)

    def codec_for(self, tiling: Tiling | None, conventions: Conventions = PAPER) -> Codec:
        """A codec that works in tiles, wrapping or not, where the denoiser does."""
        if self.vae is None:
            channels = self.joint_unet.in_channels
            codec = PixelCodec() if channels == PixelCodec.channels else MissingCodec(channels)
        else:
            tiles = None if tiling is None else CodecTiles(window=tiling.window, wraps=tiling.wraps)
            codec = LatentCodec(self.vae, tiles, self._execution_device)
        codec.reads_first_channel = conventions.reads_first_channel
        return codec

    def check_output(self, output_type: str, callback: StepEnd | None, callback_inputs: Sequence[str]) -> None:
        """Raises: RangeError."""
        if output_type not in OUTPUT_TYPES:
            raise RangeError(f"got output_type {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
        unknown = set(tensors_shown(callback, callback_inputs)) - set(self._callback_tensor_inputs)
        if unknown:
            raise RangeError(f"got callback tensor inputs {sorted(unknown)}; expected some of {self._callback_tensor_inputs}")

    def check_size(self, height: int, width: int) -> None:
        """Raises: ShapeError."""
        multiple = self.size_multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (height, width))
            raise ShapeError(f"got a size of {height}x{width}; expected multiples of {multiple}, such as {nearest}")
