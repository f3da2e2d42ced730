"""Panoramas: seams of RGB and depth, repetition, and their views against those of real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.evaluation.bulk import BulkFolder
from jointnet.evaluation.data.sample import integers_of, rgb_of
from jointnet.evaluation.features import Extractor
from jointnet.evaluation.metrics.distribution import Gaussian, frechet_distance
from jointnet.evaluation.metrics.panorama import (
    CUBE_FACES,
    SEAM_CONSTANT,
    cube_faces,
    discontinuity_at_columns,
    discontinuity_at_poles,
    discontinuity_at_wrap,
    intra_distance,
    omni_frechet,
)
from jointnet.evaluation.models.adapters import JointNet, generators_of
from jointnet.evaluation.perceptual import Distance
from jointnet.evaluation.work import Units
from jointnet.machine.processes import after_all
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.panorama import Panorama


@dataclass(frozen=True, kw_only=True)
class JointPanorama:
    """A joint model as a ``Generator`` of panoramas.

    Attributes:
        size: height and width; span_deg: the angle across the width; projection: "cylindrical" or "equirectangular".
        steps, guidance: of sampling.
    """

    pipeline: Any
    size: tuple[int, int]
    span_deg: float
    projection: str
    steps: int
    guidance: float | None = None

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Mapping[str, Tensor]:
        """See ``Generator``."""
        options = SamplingOptions(num_inference_steps=self.steps, generator=generators_of(seeds), guidance_scale=self.guidance)
        request = Panorama(
            prompt=list(prompts),
            height=self.size[0],
            width=self.size[1],
            span_deg=self.span_deg,
            projection=self.projection,
            options=options,
        )
        return self.pipeline.run(request).maps


def panoramas_by(model: Any, *, span_deg: float, projection: str) -> tuple[Any, int | None]:
    """Return a ``Generator`` of panoramas, and the width of what it makes at once (None: not known).

    A peer's ``generate`` is taken as it is. Of a joint model the panorama task is: without a size, one window high and four wide.
    """
    if not isinstance(model, JointNet):
        return model, None
    tile = model.pipeline.default_size
    made = JointPanorama(
        pipeline=model.pipeline,
        size=model.size or (tile, 4 * tile),
        span_deg=span_deg,
        projection=projection,
        steps=model.steps,
        guidance=model.guidance,
    )
    return made, tile


@dataclass(frozen=True, kw_only=True)
class PanoramaProtocol:
    """What is looked at.

    Attributes:
        span_deg: 360: left and right edge meet; projection: of an equirectangular one of 360 degrees also the poles and the views count.
        tile: width of what the model makes at once, where seams would lie: multiples of half of it; None: a panorama's height.
        face: side of a view in pixels, None: half the panorama's height.
    """

    span_deg: float
    projection: str
    tile: int | None
    face: int | None = None

    @property
    def is_sphere(self) -> bool:
        """True for a picture of all directions."""
        return self.span_deg == 360 and self.projection == "equirectangular"


@torch.no_grad()
def panorama_errors(rgb: Tensor, depth: Tensor | None, distance: Distance, protocol: PanoramaProtocol) -> dict[str, float]:
    """Seam scores of RGB (3, H, W) and depth (1, H, W) in [0, 1], and the intra-distance of one panorama. Raises: ShapeError."""
    height, width = rgb.shape[-2:]
    if width < 2 * height:
        raise ShapeError(f"got a panorama of {height}x{width}; expected one at least twice as wide as high")
    device = next(distance.network.parameters()).device
    errors = {"intra_distance": intra_distance(rgb.to(device), distance)}
    step = max(1, (protocol.tile or height) // 2)
    edges, between = ([column for column in range(start, width - 2, step) if column >= 3] for start in (step, step // 2))
    for name, map_ in {"rgb": rgb, **({} if depth is None else {"depth": depth})}.items():
        if edges:
            errors[f"seams_tiles_{name}"] = discontinuity_at_columns(map_, edges)
            errors[f"between_tiles_{name}"] = discontinuity_at_columns(map_, between)
        if protocol.span_deg == 360:
            errors[f"seam_wrap_{name}"] = discontinuity_at_wrap(map_)
        if protocol.is_sphere:
            errors[f"seams_poles_{name}"] = discontinuity_at_poles(map_)
    return errors


@dataclass(frozen=True)
class RealViews:
    """Real panoramas whose views are compared with, and by which features."""

    pictures: Sequence[Path]
    extractor: Extractor


def measure_panoramas(
    made: BulkFolder, units: Units, distance: Distance, protocol: PanoramaProtocol, real: RealViews | None, *, has_depth: bool
) -> dict[str, Any]:
    """Measure a folder of panoramas, this process its share; return the figures of all of them. Raises: ShapeError, OutputError."""
    for unit in units.mine():
        read = [read_panorama(made.picture(row), made.map_file(row, "depth") if has_depth else None) for row in units.rows(unit)]
        units.write(unit, [panorama_errors(rgb, depth, distance, protocol) for rgb, depth in read])

    def figures() -> dict[str, Any]:
        found = panorama_figures([row for unit in units.read() for row in unit])
        if real is None:
            return found
        pictures = [made.picture(row) for row in range(units.count)]
        return found | omni_distance(real.pictures, pictures, real.extractor, protocol.face)

    return after_all(figures)


def read_panorama(picture: Path, depth: Path | None) -> tuple[Tensor, Tensor | None]:
    """Read a panorama's files as [0, 1]: (3, H, W), and (1, H, W) of 16 bits."""
    if depth is None or not depth.is_file():
        return rgb_of(picture), None
    return rgb_of(picture), torch.from_numpy(integers_of(depth) / 65535).float()[None]


def view_features(pictures: Sequence[Path], extractor: Extractor, face: int | None) -> dict[str, np.ndarray]:
    """Features of the six views of equirectangular panoramas, face -> (N, D)."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in CUBE_FACES}
    for path in pictures:
        picture = rgb_of(path)
        views = cube_faces(picture[None], face or picture.shape[-2] // 2)[:, 0]
        for name, values in zip(CUBE_FACES, extractor(views).double().numpy(), strict=True):
            found[name].append(values)
    return {name: np.stack(values) for name, values in found.items()}


def panorama_figures(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the means over panoramas of what ``panorama_errors`` found."""
    return {"panoramas": len(rows), **{name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}}


def omni_distance(real: Sequence[Path], made: Sequence[Path], extractor: Extractor, face: int | None) -> dict[str, float]:
    """Return the distance of the views of two sets under its name: OmniFID with Inception's features."""
    reference, views = (view_features(pictures, extractor, face) for pictures in (real, made))
    return {f"Omni{extractor.distance}": omni_frechet(reference, views, lambda a, b: frechet_distance(Gaussian.of(a), Gaussian.of(b)))}


def stated_protocol(protocol: PanoramaProtocol, distance: Distance, extractor: Extractor | None) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "span_deg": protocol.span_deg,
        "projection": protocol.projection,
        "tile": protocol.tile,
        "face": protocol.face,
        "seam_constant": SEAM_CONSTANT,
        "distance": distance.words,
        "features": None if extractor is None else extractor.words,
        "depth": "disparity in [0, 1], as it was made",
    }
