"""Text -> an image and its dense maps."""

from __future__ import annotations

from dataclasses import dataclass, field

from jointnet.errors import RangeError
from jointnet.tasks.denoise import denoise, prompt_of, result_of
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.task import all_asked


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Every modality is sampled, no pixel is known.

    Attributes:
        prompt: one or several; None with ``options.prompt_embeds``.
        height, width: pixels, multiples of the model's ``size_multiple``; None: the size the base was made for.
        num_images_per_prompt: at least 1.
    Source: Sec. 3.1, 5.1.
    """

    prompt: str | list[str] | None = None
    height: int | None = None
    width: int | None = None
    num_images_per_prompt: int = 1
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError."""
        options = self.options
        if self.num_images_per_prompt < 1:
            raise RangeError(f"got {self.num_images_per_prompt} images per prompt; expected at least 1")
        if options.processing_size is not None:
            raise RangeError("got a processing size to generate at; expected height and width")
        size = (model.default_size if self.height is None else self.height, model.default_size if self.width is None else self.width)
        model.check_size(*size)
        scale = model.default_guidance if options.guidance_scale is None else options.guidance_scale
        lora_scale = (options.cross_attention_kwargs or {}).get("scale")
        conditioning = model.condition(prompt_of(self.prompt, options), scale, self.num_images_per_prompt, lora_scale)
        task, tiling = all_asked(size), model.tiling(options, size)
        codec = model.codec(tiling, options.conventions.decode)
        x = denoise(model, task, codec, conditioning, options, scale, tiling)
        if options.output_type == "latent":
            return Result(latents=x.flatten(1, 2))
        return result_of(model, task, model.decode(x, codec))
