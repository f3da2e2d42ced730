"""JointModel: all that a task needs of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, device

from jointnet.codecs.codec import Codec, CodecTiles, ReadMaps
from jointnet.codecs.latent import LatentCodec, MissingCodec
from jointnet.codecs.pixel import PixelCodec
from jointnet.errors import RangeError, ShapeError
from jointnet.modalities.modality import Modality
from jointnet.models.joint_unet import JointUNet
from jointnet.sampling.loop import OnStep
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.options import SamplingOptions
from jointnet.text.prompts import Prompt, PromptEncoder, on_device
from jointnet.types import Conditioning

WHOLE_IMAGE_LIMIT = 16
"""Canvases larger than this many windows have no whole-image tile unless a Tiling asks for one: it would not fit into memory."""


class Guide(Protocol):
    """The guidance scale of a run, which callbacks may change."""

    scale: float


class RunWatch(Protocol):
    """Who looks on while a model samples: a pipeline with its progress bar, callbacks and interrupt."""

    @property
    def interrupt(self) -> bool:
        """True if the run is to stop before its next step."""
        ...

    def begin_run(self, num_steps: int, guide: Guide) -> None:
        """A run of so many calls of the network begins."""
        ...

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """A context manager with ``update()``."""
        ...

    def report_step(self, guide: Guide, options: SamplingOptions) -> OnStep | None:
        """The callback after each step, if the options have one."""
        ...

    def scaled_adapters(self, scale: float | None) -> Any:
        """A context manager: the text encoders' adapters (LoRA) at a scale; None leaves them as they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class JointModel:
    """A joint network with its codec, text and scheduler.

    Attributes:
        network: the branches and their exchanges.
        vae: the base's autoencoder, or None.
        prompt_encoder: None where prompts come as embeddings.
        scheduler, image_noising_scheduler: copied for each run.
        safety_checker, feature_extractor: the base's own, or None.
        device: where the networks run; while they are offloaded their weights lie elsewhere.
        default_guidance, default_steps, zeros_for_empty_prompt, depth_near_m: as in the pipeline's config.
        watch: who looks on.
    """

    network: JointUNet
    vae: Any
    prompt_encoder: PromptEncoder | None
    scheduler: Any
    image_noising_scheduler: Any
    safety_checker: Any
    feature_extractor: Any
    device: device
    default_guidance: float
    default_steps: int | None
    zeros_for_empty_prompt: bool
    depth_near_m: float | None
    watch: RunWatch

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the maps, "rgb" first."""
        return self.network.modalities

    @property
    def window(self) -> int:
        """The side of the base's own state, in latent pixels; some bases state both sides."""
        side = self.network.branch("rgb").config.sample_size
        return side if isinstance(side, int) else min(side)

    @property
    def default_size(self) -> int:
        """Pixels along a side of the square images the base was made for."""
        return self.window * self.codec().factor

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        factor = self.codec().factor
        return 2 ** self.network.branch("rgb").num_upsamplers if self.vae is None and factor == 1 else factor

    def codec(self, tiling: Tiling | None = None, read: ReadMaps = Modality.decode) -> Codec:
        """Between maps and the state, in tiles, wrapping or not, where the denoiser is."""
        if self.vae is None:
            channels = self.network.in_channels
            return PixelCodec(read) if channels == PixelCodec.channels else MissingCodec(channels)
        tiles = None if tiling is None else CodecTiles(window=tiling.window, wraps=tiling.wraps)
        return LatentCodec(self.vae, tiles, self.device, read)

    def decode(self, x: Tensor, codec: Codec) -> dict[str, Tensor]:
        """State (B, M, C, h, w) -> one map a modality, (B, c, H, W), float32."""
        return {name: codec.decode(name, x[:, i]) for i, name in enumerate(self.modalities)}

    def condition(self, prompt: Prompt, guidance_scale: float, num_samples: int = 1, lora_scale: float | None = None) -> Conditioning:
        """Encoded prompts as the denoiser takes them, ``num_samples`` rows each; a scale up to 1 is no guidance, as in diffusers.

        Raises: ShapeError.
        """
        with self.watch.scaled_adapters(lora_scale):
            pair = prompt.encode(self.prompt_encoder, guided=guidance_scale > 1, zeros_for_empty=self.zeros_for_empty_prompt)
        if self.network.reads_sizes and any(text is not None and not text.added for text in pair):
            raise ShapeError("got embeddings without pooled ones for a base that reads both; pass pooled_prompt_embeds too")
        text, negative = (on_device(text, self.device, self.network.dtype, num_samples) for text in pair)
        assert text is not None, "a prompt has a text"
        return Conditioning(text, negative)

    def check_size(self, height: int, width: int) -> None:
        """Raises: ShapeError."""
        multiple = self.size_multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (height, width))
            raise ShapeError(f"got a size of {height}x{width}; expected multiples of {multiple}, such as {nearest}")

    def tiling(self, options: SamplingOptions, size: Sequence[int], **changes: Any) -> Tiling | None:
        """The tiles for a canvas of ``size`` pixels; without the whole image where it is large; None: at once.

        ``changes`` are fields of Tiling. Raises: RangeError.
        """
        tiled = options.tiled
        if tiled is None:
            tiled = options.wraps or options.stride is not None
        if isinstance(tiled, Tiling):
            return replace(tiled, wraps=tiled.wraps or options.wraps)
        if not tiled:
            if options.wraps or options.stride is not None:
                raise RangeError("got tiled=False with wraps or a stride, which are for tiles; leave out one or the other")
            return None
        height, width = self.working_size(size, options.processing_size, tiled=True)
        is_large = height * width > WHOLE_IMAGE_LIMIT * self.default_size**2
        alone = 0.0 if options.chosen_speed is None else options.chosen_speed.alone_share
        of_the_whole = {"whole_share": 0.0} if is_large else {"alone_share": alone}
        return self.tiles(options, **{"wraps": options.wraps, **of_the_whole, **changes})

    def tiles(self, options: SamplingOptions, **changes: Any) -> Tiling:
        """Tiles of the model's size at the options' stride, or at their speed's. Raises: RangeError."""
        factor, window_px, speed = self.codec().factor, self.default_size, options.chosen_speed
        if options.stride is not None:
            if options.stride % factor or not 0 < options.stride <= window_px:
                raise RangeError(f"got a stride of {options.stride} px; expected a multiple of {factor} up to a tile's {window_px} px")
            changes["stride"] = options.stride // factor
        elif speed is not None and speed.stride is not None:
            changes["stride"] = max(1, round(speed.stride * self.window))
        return Tiling(**{"window": self.window, **changes})

    def working_size(self, size: Sequence[int], processing_size: int | None, *, tiled: bool) -> tuple[int, int]:
        """The size in pixels at which the network works on a picture of ``size``.

        The multiples of ``size_multiple`` nearest to the size (tiled), or to it brought to the processing size along its long side.
        Raises: ShapeError.
        """
        multiple = self.size_multiple
        if processing_size is not None and (processing_size < multiple or processing_size % multiple):
            raise ShapeError(f"got a processing size of {processing_size}; expected a multiple of {multiple}, such as {self.default_size}")
        share = 1 if tiled and processing_size is None else (processing_size or self.default_size) / max(size)
        height, width = (max(multiple, round(side * share / multiple) * multiple) for side in size)
        return height, width
