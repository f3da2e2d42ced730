"""The pipeline's tasks besides plain generation: thin methods, each of which says what is known and what is asked (Sec. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet.errors import RangeError
from jointnet.geometry.projection import get_projection
from jointnet.modalities.modality import get_modality, resize_picture, within_limits
from jointnet.modalities.read import MapInput, as_maps, as_masks
from jointnet.modalities.resize import resize_lanczos
from jointnet.pipelines import task as tasks
from jointnet.pipelines.conventions import PAPER, Conventions
from jointnet.pipelines.output import JointNetPipelineOutput
from jointnet.pipelines.perform import TaskOptions, finish, perform, perform_once, plan, tiles_of
from jointnet.pipelines.photo import Photo
from jointnet.sampling.tiling import Tiling

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline

ENSEMBLE_BATCH = 16
"""Samples of an ensemble that are made at once, ..."""

ENSEMBLE_PIXELS = 4 * 512 * 512
"""... or as many as have together so many pixels: memory grows with them."""


class TaskMethods:
    """Mixed into JointNetPipeline."""

    @torch.no_grad()
    def predict(
        self, image: MapInput, prompt: str | list[str] = "", *, ensemble: int = 1, **options: Unpack[TaskOptions]
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Image -> its dense maps.

        Args:
            image: one or several pictures of one size, any size.
            ensemble: samples a picture; they are aligned and merged, and their disagreement becomes the uncertainty. Up to ENSEMBLE_BATCH
                of them are made at once, the next with what the generator draws next.
        Raises: ShapeError, RangeError.
        Source: Sec. 4.1, 5.2.
        """
        if ensemble < 1:
            raise RangeError(f"got an ensemble of {ensemble}; expected at least 1")
        pipeline = cast("JointNetPipeline", self)
        task = tasks.given({"rgb": as_maps("rgb", image)})
        height, width = plan(pipeline, task, options)[1]
        at_once = min(ENSEMBLE_BATCH, max(1, ENSEMBLE_PIXELS // (height * width)))  # the same for a batch and its single pictures
        parts: list[dict[str, Tensor]] = []
        for done in range(0, ensemble, at_once):
            parts.append(perform(pipeline, task, prompt, options, min(at_once, ensemble - done)))
            if pipeline.interrupt:
                break
        samples = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}  # (B, ensemble, c, h, w)
        known = samples.pop("rgb")[:, 0]
        merged, uncertainty = _merged(samples)
        return finish(pipeline, task, {"rgb": known, **merged}, options, uncertainty if ensemble > 1 else None)

    @torch.no_grad()
    def condition(
        self, prompt: str | list[str] = "", *, dense: Mapping[str, MapInput], **options: Unpack[TaskOptions]
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Dense maps -> images of them.

        Args:
            dense: modality -> maps in the range it states, any size: {"depth": disparity}.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.1, 5.2.
        """
        pipeline = cast("JointNetPipeline", self)
        task = tasks.given({name: as_maps(name, maps) for name, maps in dense.items()})
        return finish(pipeline, task, perform_once(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def edit(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        mask: MapInput | Mapping[str, MapInput],
        prompt: str | list[str] = "",
        *,
        strength: float = 1.0,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Make holes of an image and its dense maps anew; known pixels come back exactly as they were.

        Args:
            dense: modality -> maps of the image's size.
            mask: white (1) where something is asked: one for all modalities, or {"rgb": ..., "depth": ...}; one without a mask is known.
            strength: 1 fills the holes from noise, less keeps more of what is in them.
        Raises: ShapeError, RangeError.
        Source: Sec. 4.1, A.2.
        """
        pipeline = cast("JointNetPipeline", self)
        maps = {"rgb": as_maps("rgb", image), **{name: as_maps(name, value) for name, value in dense.items()}}
        masks = {n: as_masks(m) for n, m in mask.items()} if isinstance(mask, Mapping) else dict.fromkeys(maps, as_masks(mask))
        task = tasks.edit(maps, masks, strength)
        return finish(pipeline, task, perform_once(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def refine(
        self,
        image: MapInput,
        dense: Mapping[str, MapInput],
        prompt: str | list[str] = "",
        *,
        only: str | Sequence[str] | None = None,
        strength: float = 0.4,
        scale: int = 1,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """Sharpen an image and its dense maps (SDEdit): what is larger than the model's size in tiles, unless ``tiled=False`` or a
        processing size is given.

        Args:
            only: the modalities to refine, such as ["depth"], the others being known; by default all of them.
            strength: how far the maps are noised before they are denoised again, in [0, 1].
            scale: enlarge by this factor first: the image bicubically, dense maps by repeating pixels.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 5.2, A.4. Note: no whole-image tile, as in the paper.
        """
        pipeline = cast("JointNetPipeline", self)
        if scale < 1:
            raise RangeError(f"got a scale of {scale}; expected a whole number from 1")
        maps = {"rgb": as_maps("rgb", image), **{name: as_maps(name, value) for name, value in dense.items()}}
        conventions = options.get("conventions", PAPER)
        chosen = tuple(maps) if only is None else (only,) if isinstance(only, str) else only
        task = tasks.refine(maps, chosen, strength)
        if scale > 1:
            task = tasks.refine(enlarged(task.maps, scale, conventions), chosen, strength)
        is_large = max(task.size) > pipeline.default_size and "processing_size" not in options
        if options.get("tiled", is_large or options.get("wraps", False) or "stride" in options) is True:
            options["tiled"] = refining_tiles(pipeline, options, wraps=options.get("wraps", False))
        return finish(pipeline, task, perform_once(pipeline, task, prompt, options), options)

    @torch.no_grad()
    def panorama(
        self,
        prompt: str | list[str] = "",
        *,
        height: int | None = None,
        width: int | None = None,
        span_deg: float = 180.0,
        projection: str = "cylindrical",
        image: MapInput | None = None,
        image_fov_deg: float = 60.0,
        scale: int = 1,
        **options: Unpack[TaskOptions],
    ) -> JointNetPipelineOutput | tuple[Any, ...]:
        """A wide picture and its dense maps, denoised in tiles and as a whole; with a photo, the rest is painted around it.

        A photo's depth is predicted first, where the whole photo can be looked at; then both are known.

        Args:
            height, width: pixels; by default the model's size, 4 times as wide.
            span_deg: angle across the width; 360 wraps. ``tiled=False`` denoises what does not wrap at once.
            projection: "cylindrical" or "equirectangular".
            image: a perspective photo, laid into the middle; ``image_fov_deg`` is the angle across its width.
            scale: refine at this many times the size in a second run.
        Raises: ShapeError, RangeError, UnknownNameError.
        Source: Sec. 4.2, 5.3.
        """
        pipeline = cast("JointNetPipeline", self)
        side = pipeline.default_size
        size = (side if height is None else height, 4 * side if width is None else width)
        pipeline.check_size(*size)
        lens = get_projection(projection, span_deg)
        lens.rays(*size)  # says whether it reaches past the poles
        conventions = options.get("conventions", PAPER)
        wraps = lens.wraps or conventions.always_wraps or options.get("wraps", False)
        wide: TaskOptions = {**options, "tiled": options.get("tiled", True), "wraps": wraps}
        pipeline._interrupt = False

        task, photo = tasks.generate(size), None
        if image is not None:
            photo = Photo(as_maps("rgb", image), image_fov_deg, lens, span_deg).with_depth(pipeline, options)
            task = photo.known_in(task)
            if pipeline.interrupt:
                return finish(pipeline, task, filled(task.maps, pipeline.modalities), options)
        made = task.composited(perform_once(pipeline, task, prompt, wide))
        if scale > 1 and not pipeline.interrupt:
            task = tasks.refine(enlarged(made, scale, conventions), tuple(made))
            task = task if photo is None else photo.known_in(task)
            wraps = wraps and not conventions.always_wraps
            fine: TaskOptions = {**wide, "tiled": refining_tiles(pipeline, options, wraps=wraps), "wraps": wraps}
            fine.pop("processing_size", None)
            fine.pop("low_res", None)  # what was made is the smaller map now
            made = perform_once(pipeline, task, prompt, fine)
        return finish(pipeline, task, made, options)


def refining_tiles(pipeline: JointNetPipeline, options: TaskOptions, *, wraps: bool) -> Tiling:
    """Tiles without the whole image (A.4)."""
    conventions = options.get("conventions", PAPER)
    return tiles_of(
        pipeline,
        options,
        wraps=wraps,
        whole_share=0.0,
        decays_everywhere=conventions.decays_everywhere,
        has_random_offset=conventions.refines_at_random_offsets,
    )


def _merged(samples: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Dense maps (B, N, c, H, W) -> merged (B, c, H, W), uncertainty (B, 1, H, W)."""
    merged, uncertainty = {}, {}
    for name, maps in samples.items():
        pairs = [get_modality(name).merge(each) for each in maps]
        merged[name], uncertainty[name] = torch.stack([m for m, _ in pairs]), torch.stack([u for _, u in pairs])
    return merged, uncertainty


def enlarged(maps: Mapping[str, Tensor], scale: int, conventions: Conventions = PAPER) -> dict[str, Tensor]:
    """Maps of one size at so many times it: pictures bicubically, dense maps by repeating pixels (Sec. 5.2)."""
    height, width = (side * scale for side in next(iter(maps.values())).shape[-2:])
    resize = resize_lanczos if conventions.has_lanczos_pictures else resize_picture

    def larger(name: str, value: Tensor) -> Tensor:
        if name == "rgb":
            return resize(within_limits("rgb", value), (height, width))
        return interpolate(value, size=(height, width))

    return {name: larger(name, value) for name, value in maps.items()}


def filled(maps: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Maps of all modalities, of which those that are not there yet are empty."""
    batch, _, *size = next(iter(maps.values())).shape
    return {name: maps[name] if name in maps else torch.zeros(batch, get_modality(name).channels, *size) for name in modalities}
