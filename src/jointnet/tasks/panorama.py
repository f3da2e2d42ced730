"""A wide picture and its dense maps, denoised in tiles and as a whole; with a photo, the rest is painted around it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jointnet.errors import JointNetWarning, ShapeError, UnknownNameError
from jointnet.geometry.projection import Projection, get_projection
from jointnet.geometry.warp import place_disparity, place_photo
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.read import MapInput, as_maps
from jointnet.tasks.denoise import result_of, sample_once
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.refine import enlarged, refinement_tiles
from jointnet.tasks.task import Task, all_asked, all_known, noised


@dataclass(frozen=True, kw_only=True)
class Panorama:
    """A canvas wider than the model's size. A photo's depth is predicted first, where the whole photo can be seen; then both are known.

    Attributes:
        height, width: pixels; None: the model's size, 4 times as wide.
        span_deg: angle across the width; 360 wraps. ``tiled=False`` denoises a canvas that does not wrap at once.
        projection: "cylindrical" or "equirectangular".
        image: a perspective photo, laid into the middle; ``image_fov_deg`` is the angle across its width.
        depth: the photo's disparity, in the photo's size; None: it is predicted.
        scale: refine at this many times the size in a second run.
    Source: Sec. 4.2, 5.3.
    """

    prompt: str | list[str] | None = ""
    height: int | None = None
    width: int | None = None
    span_deg: float = 180.0
    projection: str = "cylindrical"
    image: MapInput | None = None
    image_fov_deg: float = 60.0
    depth: MapInput | None = None
    scale: int = 1
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError, UnknownNameError."""
        # 1. The canvas
        options, side = self.options, model.default_size
        size = (side if self.height is None else self.height, 4 * side if self.width is None else self.width)
        model.check_size(*size)
        lens = get_projection(self.projection, self.span_deg)
        lens.rays(*size)  # refuses a canvas that reaches past the poles
        if self.projection == "equirectangular" and size[0] > side:
            _warn_of_stacked_windows(size[0], side)
        wraps = options.wraps or options.conventions.wraps_panorama(lens)
        wide = replace(options, tiled=True if options.tiled is None else options.tiled, wraps=wraps)

        # 2. What is known: nothing, or a photo and its depth
        task, photo = all_asked(size), None
        if self.depth is not None and self.image is None:
            raise ShapeError("got a photo's depth without the photo; pass image too")
        if self.image is not None:
            photo = Photo(as_maps("rgb", self.image), self.image_fov_deg, lens, self.span_deg)
            photo = photo.with_depth(model, options) if self.depth is None else photo.with_known_depth(model, self.depth)
            task = photo.known_in(task)
            if model.watch.interrupt:
                return result_of(model, task, filled(task.maps, model.modalities))

        # 3. Sample, then refine at a larger size
        maps = task.composite(sample_once(model, task, self.prompt, wide))
        if self.scale > 1 and not model.watch.interrupt:
            task = noised(enlarged(maps, self.scale, options.conventions), tuple(maps))
            task = task if photo is None else photo.known_in(task)
            wraps = options.wraps or options.conventions.wraps_refinement(lens)
            fine = replace(options, processing_size=None, low_res=None, latents=None)  # the maps are the smaller ones now
            maps = sample_once(model, task, self.prompt, fine, refinement_tiles(model, options, wraps=wraps))
        return result_of(model, task, maps)


@dataclass(frozen=True)
class Photo:
    """A perspective photo in the middle of a canvas.

    Attributes:
        rgb: (B, 3, h, w) in [0, 1], and ``disparity01`` (B, 1, h, w) if it is known; fov_deg: the photo's angle across its width.
        projection, span_deg: the canvas's, and its angle across its width.
    """

    rgb: Tensor
    fov_deg: float
    projection: Projection
    span_deg: float
    disparity01: Tensor | None = None

    def with_depth(self, model: JointModel, options: SamplingOptions) -> Photo:
        """The photo and its depth, predicted at the model's size without a prompt; as it is if the model has no depth or upscales.

        With a list of generators, each has a depth of its own.
        """
        if "depth" not in model.modalities or model.network.config.low_res_channels:
            return self
        generator = options.generator
        rgb = self.rgb.expand(len(generator), -1, -1, -1) if isinstance(generator, list) and len(self.rgb) == 1 else self.rgb
        task = all_known({"rgb": rgb})
        maps = task.composite(sample_once(model, task, "", _of_the_photo(options)))
        return replace(self, rgb=rgb, disparity01=within_limits("depth", maps["depth"]))

    def with_known_depth(self, model: JointModel, depth: MapInput) -> Photo:
        """The photo and its depth, as it was passed. Raises: ShapeError, RangeError; UnknownNameError if the model has no depth."""
        if "depth" not in model.modalities:
            raise UnknownNameError(f"got the photo's depth for a model of {', '.join(model.modalities)}; leave it out")
        disparity01 = within_limits("depth", as_maps("depth", depth))
        if disparity01.shape[-2:] != self.rgb.shape[-2:]:
            got, expected = ("x".join(map(str, maps.shape[-2:])) for maps in (disparity01, self.rgb))
            raise ShapeError(f"got the depth of {got} px for a photo of {expected} px; expected one size")
        return replace(self, disparity01=disparity01)

    def known_in(self, task: Task) -> Task:
        """The same task with the photo's pixels known, and their depth unless the task refines it or the photo covers all."""
        lens = (self.fov_deg, self.projection, self.span_deg, task.size)
        canvas, covered = place_photo(self.rgb, *lens)
        is_covered = covered > 0.5
        if "rgb" in task.maps:
            sampled = task.maps["rgb"]
            canvas = torch.where(is_covered.to(sampled.device), canvas.to(sampled.device), sampled)
        maps, asked = {**task.maps, "rgb": canvas}, {**task.asked, "rgb": ~is_covered}
        if self.disparity01 is not None and "depth" not in task.maps and not bool(is_covered.all()):
            maps["depth"] = place_disparity(self.disparity01, *lens).to(canvas.device)
            asked["depth"] = ~is_covered
        return replace(task, maps=maps, asked=asked)


def _of_the_photo(options: SamplingOptions) -> SamplingOptions:
    """The options without those of the canvas and its prompt."""
    return replace(
        options,
        tiled=None,
        wraps=False,
        stride=None,
        processing_size=None,
        low_res=None,
        latents=None,
        guidance_scale=None,
        negative_prompt=None,
        prompt_embeds=None,
        negative_prompt_embeds=None,
        pooled_prompt_embeds=None,
        negative_pooled_prompt_embeds=None,
        clip_skip=None,
    )


def _warn_of_stacked_windows(height: int, window: int) -> None:
    warnings.warn(
        f"an equirectangular canvas {height} px high is drawn in several rows of the model's square windows of {window} px, which know no "
        f"latitude: expect a floor and a horizon in each; for one of each pass a height of {window} and refine it to a larger one",
        JointNetWarning,
        stacklevel=3,
    )


def filled(maps: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Maps of all modalities, of which those that are not there yet are empty."""
    batch, _, *size = next(iter(maps.values())).shape
    return {name: maps[name] if name in maps else torch.zeros(batch, get_modality(name).channels, *size) for name in modalities}
