"""JointNetPipeline: the joint network with its text encoder, autoencoder and scheduler, in diffusers' manner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import get_ident
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils.logging import get_logger
from huggingface_hub import create_repo, snapshot_download
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from jointnet.checkpoints.card import keep_side_files, write_card
from jointnet.checkpoints.index import refuse_single_file
from jointnet.checkpoints.integrity import check_whole
from jointnet.checkpoints.opening import check_is_joint, check_weights
from jointnet.checkpoints.release import read_release
from jointnet.checkpoints.weight_files import variant_of
from jointnet.codecs.codec import Codec
from jointnet.errors import ModelFolderError, RangeError, ShapeError
from jointnet.files.atomic import bring_to_disk
from jointnet.modalities.modality import get_modality
from jointnet.modalities.read import MapInput
from jointnet.models.adapters import adapter_names, without_adapters
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.bases import HUB_OPTIONS, check_fit, check_prediction, components_of, open_base
from jointnet.pipelines.callbacks import TENSOR_INPUTS, StepReport
from jointnet.pipelines.lora import OF_A_BRANCH, BranchLoraLoader
from jointnet.sampling.loop import OnStep
from jointnet.sampling.schedulers import Generators
from jointnet.sampling.speed import Speed
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.condition import Condition
from jointnet.tasks.conventions import PAPER, Conventions
from jointnet.tasks.edit import Edit
from jointnet.tasks.generate import Generate
from jointnet.tasks.model import Guide, JointModel
from jointnet.tasks.options import DEFAULT_NOISE_LEVEL, SamplingOptions
from jointnet.tasks.output import JointNetPipelineOutput, Result
from jointnet.tasks.panorama import Panorama
from jointnet.tasks.predict import Predict
from jointnet.tasks.refine import Refine
from jointnet.text.prompts import Prompt, PromptEncoder, on_device, prompt_encoder_of, scaled_adapters, unconditional
from jointnet.types import Text

logger = get_logger(__name__)

MODEL_FACTS = ("depth_near_m", "default_guidance", "default_steps", "force_zeros_for_empty_prompt")
"""Settings of the pipeline that belong to its weights: the network's config has them too."""

Request = Generate | Predict | Condition | Edit | Refine | Panorama
Returned = JointNetPipelineOutput | tuple[Any, ...]
"""The output, or with ``return_dict=False`` its tuple."""


class JointNetPipeline(StableDiffusionMixin, TextualInversionLoaderMixin, BranchLoraLoader, DiffusionPipeline):
    """Text -> image and dense maps.

    Adapters made for the base (LoRA, textual inversion, FreeU) act on the RGB branch. What a base does not have is None.

    Args:
        vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, scheduler, image_noising_scheduler, safety_checker,
            feature_extractor: the base's own.
        joint_unet: the branches and their exchanges.
        depth_near_m: the distance at which a depth map reads 1, in metres, for models whose disparity has a scale (near / z); None: up to
            an affine map.
        default_guidance: the guidance scale where none is asked for; 7.5 as in StableDiffusionPipeline, or what suits the model.
        default_steps: the number of steps where none is asked for, of a model that was distilled to few; None: 50.
        force_zeros_for_empty_prompt, requires_safety_checker: as the base's pipeline has them.

    What is left out of ``depth_near_m``, ``default_guidance``, ``default_steps`` and ``force_zeros_for_empty_prompt`` is as the network's
    config states, so that ``JointNetPipeline(**pipe.components)`` is the same pipeline.
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
    _callback_tensor_inputs = list(TENSOR_INPUTS)  # noqa: RUF012 - diffusers reads a list

    vae: AutoencoderKL | AutoencoderTiny | None
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
        vae: AutoencoderKL | AutoencoderTiny | None,
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
        default_guidance: float | None = None,
        default_steps: int | None = None,
        force_zeros_for_empty_prompt: bool | None = None,
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
        stated: Mapping[str, Any] = {} if joint_unet is None else joint_unet.config  # None where only prompts are encoded
        self._set_facts(
            depth_near_m=_first(depth_near_m, stated.get("depth_near_m")),
            default_guidance=_first(default_guidance, stated.get("default_guidance"), 7.5),
            default_steps=_first(default_steps, stated.get("default_steps")),
            force_zeros_for_empty_prompt=_first(force_zeros_for_empty_prompt, stated.get("force_zeros_for_empty_prompt"), False),
        )
        super().register_to_config(requires_safety_checker=requires_safety_checker)
        self._guides: dict[int, Guide] = {}
        self._options: dict[int, dict[str, Any]] = {}
        self._num_timesteps = 0
        self._interrupt = False

    def register_to_config(self, **settings: Any) -> None:
        """As ConfigMixin does; the facts about the model's weights also go into the network's config."""
        super().register_to_config(**settings)
        facts = {name: value for name, value in settings.items() if name in MODEL_FACTS}
        if facts and self.joint_unet is not None:
            self.joint_unet.register_to_config(**facts)

    def _set_facts(self, **facts: Any) -> None:
        """Note facts in the config; in the network's too where it states none: it may be another pipeline's as well."""
        super().register_to_config(**facts)
        if self.joint_unet is not None:
            stated = self.joint_unet.config
            self.joint_unet.register_to_config(**{name: value for name, value in facts.items() if stated.get(name) is None})

    @classmethod
    def load_config(cls, *arguments: Any, **kwargs: Any) -> Any:
        """As ConfigMixin does; a class named with its file, for DiffusionPipeline, is this one: no code of a folder is run."""
        loaded = super().load_config(*arguments, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return loaded

    @classmethod
    def from_base(cls, base: Any, modalities: Sequence[str] = ("rgb", "depth"), *, branch: str = "full", **kwargs: Any) -> JointNetPipeline:
        """Extend a text-to-image pipeline to more modalities; untrained, it still generates its images.

        Adapters (LoRA) of an open base stay on the RGB branch; the dense branches are copies of the weights without them.
        Args:
            base: a Stable Diffusion 1/2, SDXL or DeepFloyd-IF pipeline, its folder or hub id; ``kwargs`` go to its from_pretrained.
            branch: what the dense branches are: "full", "lora:RANK" or "thin:SHARE", see ``JointUNet``.
        Raises: UnsupportedBaseError, ModelFolderError, UnknownNameError.
        """
        for name in modalities:
            get_modality(name)
        opened = open_base(base, **kwargs)
        return cls(joint_unet=JointUNet.from_unet(opened.unet, modalities, branch=branch), **components_of(opened))

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
        for name in joint.modalities:
            get_modality(name)
        components = components_of(open_base(base, **{"unet": None, **kwargs}))
        check_fit(joint.branch("rgb"), components)
        check_prediction(components["scheduler"], release.prediction_type)
        dtype = components["vae"].dtype
        return cls(joint_unet=joint if joint.dtype == dtype else joint.to(dtype), **components)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> JointNetPipeline:
        """As DiffusionPipeline does, from a folder or a hub id; what is on the hub is fetched whole, no code of it is run.

        Of a folder that holds only a variant of the weights, such as fp16, that one is opened.
        Raises: ModelFolderError for a folder of another pipeline, a single file, or a damaged one (``checkpoints.integrity``).
        """
        path = pretrained_model_name_or_path
        refuse_single_file(path)
        if not Path(path).is_dir():
            path = snapshot_download(str(path), **{name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs})
        folder = Path(path)
        check_is_joint(folder)
        kwargs = {"variant": variant_of(folder), **kwargs}
        check_whole(folder, besides=kwargs, variant=kwargs["variant"])
        pipeline = cast(JointNetPipeline, super().from_pretrained(path, **kwargs))
        opened = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module) and name not in kwargs}
        check_weights(folder, opened, named=("joint_unet", "text_encoder", "text_encoder_2"))
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, *arguments: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As DiffusionPipeline does; adds a model card, the provenance of the folder it was loaded from, and ``pipeline.py``.

        Adapters (LoRA) are no part of the folder, unless they are fused: ``save_lora_weights`` saves them.
        """
        folder = Path(save_directory)
        hub = {name: kwargs.pop(name) for name in ("repo_id", "private", "token", "commit_message", "create_pr") if name in kwargs}
        networks = [part for part in self.components.values() if isinstance(part, nn.Module)]
        left_out = sorted({name for network in networks for module in network.modules() for name in adapter_names(module)})
        if left_out:
            logger.warning(
                f"saving {folder} without the adapters {', '.join(left_out)}; fuse_lora() first to make them part of the weights"
            )
        if self.joint_unet is not None:
            self.joint_unet.register_to_config(**{name: self.config[name] for name in MODEL_FACTS})
        with without_adapters(*networks):
            super().save_pretrained(save_directory, *arguments, **kwargs)
        bring_to_disk(folder, "*.safetensors")
        keep_side_files(self.name_or_path, folder)
        write_card(folder)
        if push_to_hub:
            repo = {"private": hub.pop("private", None), "token": hub.get("token")}
            repo_id = create_repo(hub.pop("repo_id", folder.name), exist_ok=True, **repo).repo_id
            self._upload_folder(folder, repo_id, **hub)

    @property
    def unet(self) -> UNet2DConditionModel:
        """The RGB branch, where adapters made for the base belong.

        Its hooks run, and ``unet.compile()`` acts, on each of the two halves that a prediction runs it in.
        """
        return self.joint_unet.branch("rgb")

    @unet.setter
    def unet(self, _other: Any) -> None:
        raise AttributeError(
            "got another unet; it is the RGB branch of joint_unet and cannot be replaced: compile it with pipe.unet.compile(), or all "
            "of the network with pipe.joint_unet.compile()"
        )

    def __getattr__(self, name: str) -> Any:
        """A dense branch's U-Net by the name that diffusers' methods for adapters have for it, such as "depth_unet"."""
        modality, network = name.removesuffix(OF_A_BRANCH), self.__dict__.get("joint_unet")
        if modality != name and network is not None and modality in network.config.modalities[1:]:
            return network.branch(modality)
        return super().__getattr__(name)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the maps this model makes, "rgb" first."""
        return self.joint_unet.modalities

    @property
    def codec(self) -> Codec:
        """Between maps and the state."""
        return self.joint_model().codec()

    @property
    def guidance_scale(self) -> float:
        """Of this thread's latest run; 1 before there is one."""
        return self._guidance_scale

    @property
    def _guidance_scale(self) -> float:
        """diffusers' callbacks read and set this one; a run in another thread has its own."""
        guide = self._guides.get(get_ident())
        return 1.0 if guide is None else guide.scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: float) -> None:
        if get_ident() in self._guides:
            self._guides[get_ident()].scale = scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """True if this thread's latest run is guided, as its scale now is."""
        return self.guidance_scale > 1

    @property
    def guidance_rescale(self) -> float:
        """Of this thread's latest run."""
        return self._options.get(get_ident(), {}).get("guidance_rescale", 0.0)

    @property
    def clip_skip(self) -> int | None:
        """Of this thread's latest run."""
        return self._options.get(get_ident(), {}).get("clip_skip")

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """Of this thread's latest run."""
        return self._options.get(get_ident(), {}).get("cross_attention_kwargs")

    @property
    def vae_scale_factor(self) -> int:
        """Pixels that one of the state's stands for, along each side."""
        return self.codec.factor

    @property
    def image_processor(self) -> VaeImageProcessor:
        """diffusers' own, for the pictures of the base; the tasks take pictures as they are."""
        return VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """As StableDiffusionPipeline's method of the name, for every branch."""
        super().fuse_qkv_projections(unet=False, vae=vae)
        if unet:
            self.joint_unet.fuse_qkv_projections()
        self.fusing_unet = unet

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Undo ``fuse_qkv_projections``."""
        if unet and getattr(self, "fusing_unet", False):
            self.joint_unet.unfuse_qkv_projections()
            self.fusing_unet = False
        super().unfuse_qkv_projections(unet=False, vae=vae and getattr(self, "fusing_vae", False))

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @property
    def default_size(self) -> int:
        """Pixels along a side of the square images the base was made for."""
        return self.joint_model().default_size

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        return self.joint_model().size_multiple

    @property
    def prompt_encoder(self) -> PromptEncoder | None:
        """Words -> text, as the base's text encoders do; None if there are none."""
        return prompt_encoder_of(
            (self.tokenizer, self.tokenizer_2),
            (self.text_encoder, self.text_encoder_2),
            self._execution_device,
            self.maybe_convert_prompt,  # pyright: ignore[reportArgumentType] - a list in, a list out
        )

    def joint_model(self) -> JointModel:
        """Return all that the tasks need of this pipeline, as it is now; ``request.run(pipe.joint_model())`` runs a request."""
        return JointModel(
            network=self.joint_unet,
            vae=self.vae,
            prompt_encoder=self.prompt_encoder,
            scheduler=self.scheduler,
            image_noising_scheduler=self.image_noising_scheduler,
            safety_checker=self.safety_checker,
            feature_extractor=self.feature_extractor,
            device=self._execution_device,
            default_guidance=self.config.default_guidance,
            default_steps=self.config.get("default_steps"),
            zeros_for_empty_prompt=self.config.force_zeros_for_empty_prompt,
            depth_near_m=self.config.depth_near_m,
            watch=self,  # pyright: ignore[reportArgumentType] - diffusers decorates progress_bar without types
        )

    def tiling(self, **changes: Any) -> Tiling:
        """Tiles of the size the base was made for; ``changes`` are fields of Tiling, such as wraps=True."""
        return Tiling(**{"window": self.joint_model().window, **changes})

    def training_text(self) -> tuple[PromptEncoder, Text]:
        """Return the encoder that training reads prompts with, and the text, one row, of a sample whose prompt is dropped.

        Raises: ShapeError without a text encoder.
        """
        encoder = self.prompt_encoder
        if encoder is None:
            raise ShapeError("got a pipeline without a text encoder; training needs one")
        return encoder, unconditional(encoder, zeros_for_empty=self.config.force_zeros_for_empty_prompt)

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
        Raises: ShapeError if neither or both of prompt and prompt_embeds are passed, or the counts differ.
        """
        words = Prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            clip_skip=clip_skip,
        )
        zeros = self.config.force_zeros_for_empty_prompt
        with self.scaled_adapters(lora_scale):
            pair = words.encode(self.prompt_encoder, guided=do_classifier_free_guidance, zeros_for_empty=zeros)
        network: JointUNet | None = self.joint_unet  # None where only prompts are encoded
        dtype = None if network is None else network.dtype
        texts = [on_device(text, device or self._execution_device, dtype, num_images_per_prompt) for text in pair]
        embeds = tuple(None if text is None else text.embeds for text in texts)
        if texts[0] is None or "text_embeds" not in texts[0].added:
            return embeds
        return *embeds, *(None if text is None else text.added["text_embeds"] for text in texts)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
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
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        tiling: Tiling | None = None,
        conventions: Conventions = PAPER,
        low_res: JointNetPipelineOutput | Mapping[str, MapInput] | None = None,
        noise_level: int = DEFAULT_NOISE_LEVEL,
        speed: str | Speed = "exact",
    ) -> Returned:
        """Generate images and their dense maps from prompts. Arguments as in StableDiffusionPipeline.

        Args:
            height, width: pixels, multiples of ``size_multiple``; by default the size the base was made for.
            generator: one for the whole batch, or a list with one for each image: then a batch equals its single images.
            latents: initial noise (B, M * C, h, w), unscaled.
            guidance_scale: by default the model's own (``config.default_guidance``); 1 or less turns guidance off.
            callback_on_step_end: called as (pipeline, step, timestep, tensors); it may return changed tensors.
            tiling: for sizes beyond the base's: denoise in overlapping tiles, see ``self.tiling()``; None: the whole canvas at once.
            conventions: PAPER, or RELEASE to do as the authors' code does.
            low_res: for bases that upscale (DeepFloyd-IF stage II): the smaller maps by modality, or the first stage's output.
            noise_level: the timestep ``low_res`` is noised to.
            speed: "exact", "balanced", "fast" or a Speed: which solver, and what of each step is computed.
            num_inference_steps: by default the speed's; 50 of "exact".
        Raises: ShapeError, RangeError.
        Source: Sec. 3.1, 5.1.
        """
        options = SamplingOptions(
            num_inference_steps=num_inference_steps,
            speed=speed,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            generator=generator,
            latents=latents,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            clip_skip=clip_skip,
            cross_attention_kwargs=cross_attention_kwargs,
            tiled=tiling,
            conventions=conventions,
            low_res=low_res,
            noise_level=noise_level,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            output_type=output_type,
        )
        request = Generate(prompt=prompt, height=height, width=width, num_images_per_prompt=num_images_per_prompt, options=options)
        return self._run(request, return_dict)

    def predict(
        self,
        image: MapInput,
        prompt: str | list[str] | None = "",
        *,
        ensemble: int = 1,
        match_input_resolution: bool = True,
        return_dict: bool = True,
        **options: Any,
    ) -> Returned:
        """Image -> its dense maps.

        Args:
            image: one or several pictures of one size, any size: PIL, paths, arrays (H, W, 3), tensors (3, H, W) or (B, 3, H, W) in [0, 1].
            ensemble: samples a picture; they are merged, and their disagreement becomes ``uncertainty``.
            match_input_resolution: maps of the picture's size; False: of the size the network works at.
            options: fields of SamplingOptions.
        Raises: ShapeError, RangeError.
        Source: Sec. 4.1, 5.2.
        """
        chosen = SamplingOptions.of(**options)
        request = Predict(image=image, prompt=prompt, ensemble=ensemble, match_input_resolution=match_input_resolution, options=chosen)
        return self._run(request, return_dict)

    def condition(
        self, prompt: str | list[str] | None = "", *, dense: Mapping[str, MapInput], return_dict: bool = True, **options: Any
    ) -> Returned:
        """Dense maps -> images of them.

        Args:
            dense: modality -> maps (B, c, H, W) in the range it states, any size: {"depth": disparity}; arrays (H, W) or (H, W, c), PIL.
            options: fields of SamplingOptions.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.1, 5.2.
        """
        return self._run(Condition(dense=dense, prompt=prompt, options=SamplingOptions.of(**options)), return_dict)

    def edit(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        mask: MapInput | Mapping[str, MapInput],
        prompt: str | list[str] | None = "",
        *,
        strength: float = 1.0,
        return_dict: bool = True,
        **options: Any,
    ) -> Returned:
        """Make holes of an image and its dense maps anew; known pixels come back exactly as they were.

        Args:
            image, dense: as ``predict`` and ``condition`` take them, of one size.
            mask: (B, 1, H, W), white (1, True) in a hole: one for all modalities, or {"rgb": ..., "depth": ...}.
            strength: 1 fills the holes from noise, less, down to 0, keeps more of their content.
            options: fields of SamplingOptions.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.1, A.2.
        """
        chosen = SamplingOptions.of(**options)
        return self._run(Edit(image=image, dense=dense, mask=mask, prompt=prompt, strength=strength, options=chosen), return_dict)

    def refine(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        prompt: str | list[str] | None = "",
        *,
        only: str | Sequence[str] | None = None,
        strength: float = 0.4,
        scale: int = 1,
        return_dict: bool = True,
        **options: Any,
    ) -> Returned:
        """Sharpen an image and its dense maps; in tiles where they are larger than the model's size.

        Args:
            image, dense: as ``predict`` and ``condition`` take them, of one size.
            only: the modalities to refine, such as ["depth"]; None: all.
            strength: how far the maps are noised before they are denoised again, in [0, 1].
            scale: enlarge by this factor first.
            options: fields of SamplingOptions.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 5.2, A.4.
        """
        chosen = SamplingOptions.of(**options)
        request = Refine(image=image, dense=dense, prompt=prompt, only=only, strength=strength, scale=scale, options=chosen)
        return self._run(request, return_dict)

    def panorama(
        self,
        prompt: str | list[str] | None = "",
        *,
        height: int | None = None,
        width: int | None = None,
        span_deg: float = 180.0,
        projection: str = "cylindrical",
        image: MapInput | None = None,
        image_fov_deg: float = 60.0,
        depth: MapInput | None = None,
        scale: int = 1,
        return_dict: bool = True,
        **options: Any,
    ) -> Returned:
        """A wide picture and its dense maps, in tiles and as a whole; with a photo, the rest is painted around it.

        Args:
            height, width: pixels; None: the model's size, 4 times as wide.
            span_deg: angle across the width; 360 wraps. projection: "cylindrical" or "equirectangular".
            image: a perspective photo (3, H, W) for the middle; image_fov_deg: the angle across its width.
            depth: the photo's disparity (1, H, W) in [0, 1]; None: predicted.
            scale: refine at this many times the size in a second run.
            options: fields of SamplingOptions.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.2, 5.3.
        """
        request = Panorama(
            prompt=prompt,
            height=height,
            width=width,
            span_deg=span_deg,
            projection=projection,
            image=image,
            image_fov_deg=image_fov_deg,
            depth=depth,
            scale=scale,
            options=SamplingOptions.of(**options),
        )
        return self._run(request, return_dict)

    @torch.no_grad()
    def run(self, request: Request) -> Result:
        """Run a request; its maps as tensors (B, c, H, W), in the range that their modality states. Raises: JointNetError."""
        options = request.options
        shown = getattr(options.callback_on_step_end, "tensor_inputs", options.callback_on_step_end_tensor_inputs)
        unknown = set(shown) - set(self._callback_tensor_inputs)
        if unknown:
            raise RangeError(f"got callback tensor inputs {sorted(unknown)}; expected some of {self._callback_tensor_inputs}")
        self._interrupt = False
        self._options[get_ident()] = {name: getattr(options, name) for name in ("guidance_rescale", "clip_skip", "cross_attention_kwargs")}
        result = request.run(self.joint_model())
        self.maybe_free_model_hooks()
        return result

    def _run(self, request: Request, return_dict: bool) -> Returned:
        output = package(self.run(request), request.options.output_type)
        return output if return_dict else output.to_tuple()

    def begin_run(self, num_steps: int, guide: Guide) -> None:
        """As RunWatch: ``num_timesteps`` and ``guidance_scale`` are those of the latest run."""
        self._num_timesteps = num_steps
        self.follow(guide)

    def follow(self, guide: Guide) -> None:
        """Let ``guidance_scale`` be that of this run, in this thread."""
        self._guides[get_ident()] = guide

    def report_step(self, guide: Guide, options: SamplingOptions) -> OnStep | None:
        """As RunWatch."""
        return None if options.callback_on_step_end is None else StepReport(self, self.codec.factor, guide, options)

    def scaled_adapters(self, scale: float | None) -> Any:
        """As RunWatch."""
        return nullcontext() if scale is None else scaled_adapters((self.text_encoder, self.text_encoder_2), scale)


def _first(*values: Any) -> Any:
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)


def package(result: Result, output_type: str) -> JointNetPipelineOutput:
    """A result in the form that callers of diffusers' pipelines ask for."""
    if result.latents is not None:
        return JointNetPipelineOutput(images=result.latents)
    images: Any = result.maps["rgb"]
    dense: dict[str, Any] = {name: value for name, value in result.maps.items() if name != "rgb"}
    uncertainty: dict[str, Any] = dict(result.uncertainty)
    if output_type != "pt":
        images = VaeImageProcessor.pt_to_numpy(images)
        images = VaeImageProcessor.numpy_to_pil(images) if output_type == "pil" else images
        dense, uncertainty = _arrays(dense), _arrays(uncertainty)
    return JointNetPipelineOutput(images=images, dense=dense, uncertainty=uncertainty, nsfw_content_detected=result.is_flagged)


def _arrays(maps: Mapping[str, Tensor]) -> dict[str, Any]:
    """Maps (B, c, H, W) -> float32 (B, H, W, c), or (B, H, W) if c is 1."""
    arrays = {name: VaeImageProcessor.pt_to_numpy(value) for name, value in maps.items()}
    return {name: array[..., 0] if array.shape[-1] == 1 else array for name, array in arrays.items()}
