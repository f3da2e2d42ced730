"""Image -> depth and normals, against ground truth: the same command for every model and data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from jointnet.errors import NonFiniteError, ShapeError, UnknownNameError
from jointnet.evaluation.data.sample import Camera, TruthData, TruthSample
from jointnet.evaluation.metrics.alignment import (
    ScaleShift,
    align_disparity,
    fit_median,
    fit_median_of_samples,
    fit_scale,
    fit_scale_shift,
)
from jointnet.evaluation.metrics.depth import DEPTH_METRICS, boundary_f1, rmse
from jointnet.evaluation.metrics.normal import AngleTotals, Pooling, angles_deg, normal_errors
from jointnet.evaluation.metrics.relative_normal import relative_normal_error
from jointnet.evaluation.models.protocol import DEPTH_KEYS, Predictor

Alignment = Literal["auto", "none", "scale", "median", "depth", "disparity", "paper"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
_AUTO: Mapping[str, Alignment] = dict(zip(DEPTH_KEYS, ("none", "scale", "depth", "disparity"), strict=True))
_MEANING = {
    "none": "no alignment",
    "scale": "least-squares scale in depth",
    "median": "scale by medians in depth",
    "depth": "least-squares scale and shift in depth",
    "disparity": "least-squares scale and shift in disparity",
    "paper": "medians of least-squares scale and shift in disparity on random samples (Sec. 5.2); RMSE in disparity",
}
_FLOOR_M = 1e-6
_ROUNDED_ASPECT = 0.1
"""By which the aspect of a prediction may differ from its picture's: a network's sides are multiples of a patch."""

_MOST_MISSING = 0.01
"""Of a map without ground truth, where its occlusion edges can still be compared."""


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How predictions are compared.

    Attributes:
        alignment: one of ALIGNMENTS; "auto": what the prediction's key leaves open.
        num_samples, repeats: of the alignment "paper".
        seed: of its samples, and of the predictions: sample i is predicted from seed + i.
        batch: pictures of one size that are predicted at once.
        limit: samples at most, the first ones; None: all.
        pooling: of normals, see ``metrics.normal``.
        fov_deg: across the width, of pictures whose data set gives no camera; None: their relative normals are not compared.
    Raises: UnknownNameError.
    """

    alignment: Alignment = "auto"
    num_samples: int = 1000
    repeats: int = 100
    seed: int = 0
    batch: int = 1
    limit: int | None = None
    pooling: Pooling = "image"
    fov_deg: float | None = None

    def __post_init__(self) -> None:
        if self.alignment not in ALIGNMENTS:
            raise UnknownNameError(f"got alignment {self.alignment!r}; expected one of {', '.join(ALIGNMENTS)}")

    def of(self, key: str) -> Alignment:
        """Return the alignment of a prediction of a key. Raises: UnknownNameError if it cannot be."""
        if self.alignment == "auto":
            return _AUTO[key]
        is_inverse = key.startswith("disparity")
        if is_inverse and self.alignment not in ("disparity", "paper"):
            raise UnknownNameError(f"got alignment {self.alignment!r} for predicted disparity; expected disparity or paper")
        return self.alignment


@dataclass(frozen=True)
class DepthRow:
    """What was measured of one sample.

    Attributes:
        errors: of depth, by metric; empty if it was left out.
        left_out: why, in a few words; None if it was not.
        normal: errors of the normals; angles: all of them, (V,) in degrees; None without.
    """

    id: str
    errors: Mapping[str, float]
    left_out: str | None = None
    normal: Mapping[str, float] | None = None
    angles: Tensor | None = None


def evaluate_rows(model: Predictor, data: TruthData, protocol: DepthProtocol, rows: Iterable[int]) -> Iterable[DepthRow]:
    """Predict and compare some samples, in their order.

    Raises: DataFolderError; ShapeError for predictions of another shape; UnknownNameError for keys that are none.
    """
    waiting: list[tuple[int, TruthSample]] = []

    def done() -> Iterable[DepthRow]:
        if waiting:
            rgb = torch.stack([sample.rgb for _, sample in waiting])
            predicted = model.predict(rgb, [protocol.seed + row for row, _ in waiting])
            check_prediction(predicted, rgb)
            for number, (_, sample) in enumerate(waiting):
                yield compare({key: value[number].float().cpu() for key, value in predicted.items()}, sample, data.cap_m, protocol)
        waiting.clear()

    for row in rows:
        sample = data.read(row)
        if waiting and (len(waiting) == protocol.batch or waiting[-1][1].rgb.shape != sample.rgb.shape):
            yield from done()
        if bool(sample.valid.any()):
            waiting.append((row, sample))
        else:
            yield from done()
            yield DepthRow(sample.id, {}, "no pixel with ground truth")
    yield from done()


def check_prediction(predicted: Mapping[str, Tensor], rgb: Tensor) -> None:
    """Check what a model says of pictures (B, 3, H, W). Raises: UnknownNameError, ShapeError."""
    count, (height, width) = len(rgb), rgb.shape[-2:]
    known = (*DEPTH_KEYS, "normal")
    if not predicted or not predicted.keys() <= set(known):
        raise UnknownNameError(f"got a prediction of {', '.join(map(str, predicted)) or 'nothing'}; expected some of {', '.join(known)}")
    for key, value in predicted.items():
        shape = (count, 3) if key == "normal" else (count,)
        if not isinstance(value, Tensor) or tuple(value.shape[:-2]) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"got {key} of {got}; expected ({', '.join(map(str, shape))}, H, W)")
        h, w = value.shape[-2:]
        if min(h, w) < 1 or abs(h * width / (w * height) - 1) > _ROUNDED_ASPECT:
            raise ShapeError(f"got {key} of {h}x{w} for pictures of {height}x{width}; expected their aspect: resize it back to the picture")


def compare(predicted: Mapping[str, Tensor], sample: TruthSample, cap_m: float, protocol: DepthProtocol) -> DepthRow:
    """Compare one prediction with the truth, at the truth's size."""
    key = next((key for key in DEPTH_KEYS if key in predicted), None)
    errors: dict[str, float] = {}
    if "normal" in predicted and not bool(predicted["normal"].isfinite().all()):
        return DepthRow(sample.id, {}, "a prediction that is not finite")
    size = sample.depth_m.shape
    if key is not None:
        is_finite = predicted[key].isfinite()
        at_truth = interpolate(is_finite[None, None].float(), size=size, mode="nearest")[0, 0] > 0.5
        if not bool(at_truth[sample.valid].all()):
            return DepthRow(sample.id, {}, "a prediction that is not finite")
        if key in ("depth_metric", "depth_scale_invariant") and bool((predicted[key][is_finite] < 0).any()):
            return DepthRow(sample.id, {}, "a predicted depth below 0")
        largest = predicted[key][is_finite].max()  # an infinite sky, where there is no ground truth, says nothing
        predicted = {**predicted, key: torch.where(is_finite, predicted[key], largest)}
        p = interpolate(predicted[key][None, None], size=size, mode="bilinear", antialias=False)[0, 0]
        alignment = protocol.of(key)
        try:
            errors = depth_errors(p, key, sample, cap_m, alignment, protocol)
        except ValueError:
            return DepthRow(sample.id, {}, "too few pixels to align")
    normal, angles = None, None
    if "normal" in predicted and sample.normal is not None:
        n = normalize(interpolate(predicted["normal"][None], size=sample.normal.shape[-2:], mode="bilinear")[0], dim=0)
        angles = angles_deg(n, sample.normal, sample.normal.norm(dim=0) > 0.5)
        normal = normal_errors(angles) if len(angles) else None
    if not errors and normal is None:
        return DepthRow(sample.id, {}, "nothing predicted that there is ground truth for")
    return DepthRow(sample.id, errors, None, normal, angles)


def depth_errors(p: Tensor, key: str, sample: TruthSample, cap_m: float, alignment: Alignment, protocol: DepthProtocol) -> dict[str, float]:
    """All metrics of one map that is as large as the truth. Raises: ValueError if it cannot be aligned."""
    d, valid = sample.depth_m, sample.valid
    disparity = 1 / d
    if alignment in ("disparity", "paper"):
        is_inverse = key.startswith("disparity")
        given = p if is_inverse else 1 / p.clamp(min=_FLOOR_M)
        fit = None
        if alignment == "paper":
            fit = fit_median_of_samples(
                given, disparity, valid, num_samples=protocol.num_samples, repeats=protocol.repeats, seed=protocol.seed
            )
        limit = cap_m if math.isfinite(cap_m) else 10 * float(d[valid].max())
        aligned = align_disparity(given, disparity, valid, cap_m=limit, fit=fit)
    else:
        fits = {"none": lambda: ScaleShift(1.0), "scale": lambda: fit_scale(p, d, valid), "median": lambda: fit_median(p, d, valid)}
        fit = fits.get(alignment, lambda: fit_scale_shift(p, d, valid))()
        aligned = fit(p).clamp(min=_FLOOR_M, max=cap_m)
    errors = {name: metric(aligned, d, valid) for name, metric in DEPTH_METRICS.items()}
    if alignment == "paper":
        errors["rmse_disparity"] = rmse(1 / aligned, disparity, valid)
    if float((~valid).float().mean()) <= _MOST_MISSING:
        errors["boundary_f1"] = boundary_f1(aligned, d)
    camera = sample.camera or (None if protocol.fov_deg is None else Camera.of_fov(protocol.fov_deg, *d.shape))
    if camera is not None:
        with suppress(ValueError):  # no two valid pixels beside each other
            errors["relative_normal"] = relative_normal_error(camera.points(aligned), camera.points(d), valid, seed=protocol.seed)
    return errors


def evaluate_unit(model: Predictor, data: TruthData, protocol: DepthProtocol, rows: Iterable[int]) -> dict[str, Any]:
    """Return what is found in some samples, as JSON takes it. Raises: as ``evaluate_rows``."""
    totals, found = AngleTotals(), []
    for row in evaluate_rows(model, data, protocol, rows):
        found.append({"id": row.id, "depth": dict(row.errors), "normal": dict(row.normal or {}), "left_out": row.left_out})
        if row.angles is not None:
            totals.add(row.angles)
    filled = totals.bins.nonzero()[:, 0]
    bins = [filled.tolist(), totals.bins[filled].tolist()]
    return {"rows": found, "angles": {"bins": bins, "total": totals.total, "squares": totals.squares}}


def summarise(units: Iterable[Mapping[str, Any]], protocol: DepthProtocol) -> dict[str, Any]:
    """Return the figures over all units.

    ``images_of`` counts the images of figures that not all of them have.
    Raises: NonFiniteError if no sample could be compared.
    """
    rows: list[Mapping[str, Any]] = []
    totals = AngleTotals()
    for unit in units:
        rows += unit["rows"]
        of_unit = AngleTotals(total=unit["angles"]["total"], squares=unit["angles"]["squares"])
        places, counts = unit["angles"]["bins"]
        of_unit.bins[places] = torch.tensor(counts, dtype=torch.int64)
        totals.merge(of_unit)
    kept, left_out = [row for row in rows if row["left_out"] is None], Counter(row["left_out"] for row in rows if row["left_out"])
    if not kept:
        reasons = ", ".join(f"{count} with {why}" for why, count in left_out.items()) or "none was there"
        raise NonFiniteError(f"got no sample that could be compared ({reasons}); check the model and the data")
    normal = _means(row["normal"] for row in kept)
    if normal and protocol.pooling == "pixel":
        normal = totals.errors()
    found = {"depth": _means(row["depth"] for row in kept), "normal": normal}
    counts = Counter(name for row in kept for name in row["depth"]) + Counter({"normal": sum(bool(row["normal"]) for row in kept)})
    fewer = {name: count for name, count in counts.items() if count < len(kept)}
    return {
        "images": len(kept),
        "left_out": dict(left_out),
        **{name: figures for name, figures in found.items() if figures},
        **({"images_of": fewer} if fewer else {}),
    }


def _means(errors: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the images that have it."""
    listed: dict[str, list[float]] = {}
    for of_image in errors:
        for name, value in of_image.items():
            listed.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in listed.items()}


def stated_protocol(protocol: DepthProtocol, data: TruthData) -> dict[str, Any]:
    """Return in words what the figures depend on: alignment, space, resolution, mask, clipping."""
    words = {**_MEANING, "auto": f"what the prediction leaves open: {', '.join(f'{key}: {_MEANING[name]}' for key, name in _AUTO.items())}"}
    return {
        **asdict(protocol),
        "alignment_in_words": words[protocol.alignment],
        "space": "depth in metres, errors per image, then the mean over images",
        "resolution": "that of the ground truth; predictions are resized bilinearly",
        "relative_normal": "radians, of points by the data set's camera, else by fov_deg; not compared without either",
        "mask": f"pixels with ground truth, as {data.name}'s reader takes them",
        "clipping_m": [_FLOOR_M, data.cap_m if math.isfinite(data.cap_m) else "10 x the largest true depth, in disparity only"],
    }
