"""Image -> depth and normals, against ground truth: the same command for every model and data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from jointnet.errors import NonFiniteError, ShapeError, UnknownNameError
from jointnet.evaluation.data.sample import TruthData, TruthSample
from jointnet.evaluation.metrics.alignment import (
    ScaleShift,
    align_disparity,
    fit_median,
    fit_median_of_samples,
    fit_scale,
    fit_scale_shift,
)
from jointnet.evaluation.metrics.depth import DEPTH_METRICS, boundary_f1, rmse
from jointnet.evaluation.metrics.normal import Pooling, angles_deg, pooled_normal_errors
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
    Raises: UnknownNameError.
    """

    alignment: Alignment = "auto"
    num_samples: int = 1000
    repeats: int = 100
    seed: int = 0
    batch: int = 1
    limit: int | None = None
    pooling: Pooling = "image"

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
        errors: by metric; empty if it was left out.
        left_out: why, in a few words; None if it was not.
        angles: of normals, (V,) in degrees; None without.
    """

    id: str
    errors: Mapping[str, float]
    left_out: str | None = None
    angles: Tensor | None = None


def evaluate_rows(
    model: Predictor, data: TruthData, protocol: DepthProtocol, rows: Iterable[int], progress: Callable[[int], None] | None = None
) -> Iterable[DepthRow]:
    """Predict and compare some samples, in their order.

    Raises: DataFolderError; ShapeError for predictions of another shape; UnknownNameError for keys that are none.
    """
    waiting: list[tuple[int, TruthSample]] = []

    def done() -> Iterable[DepthRow]:
        if waiting:
            rgb = torch.stack([sample.rgb for _, sample in waiting])
            predicted = model.predict(rgb, [protocol.seed + row for row, _ in waiting])
            check_prediction(predicted, len(waiting))
            for number, (row, sample) in enumerate(waiting):
                yield compare({key: value[number].float().cpu() for key, value in predicted.items()}, sample, data.cap_m, protocol)
                if progress is not None:
                    progress(row)
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


def check_prediction(predicted: Mapping[str, Tensor], count: int) -> None:
    """Raises: UnknownNameError, ShapeError."""
    known = (*DEPTH_KEYS, "normal")
    if not predicted or not predicted.keys() <= set(known):
        raise UnknownNameError(f"got a prediction of {', '.join(map(str, predicted)) or 'nothing'}; expected some of {', '.join(known)}")
    for key, value in predicted.items():
        shape = (count, 3) if key == "normal" else (count,)
        if not isinstance(value, Tensor) or tuple(value.shape[:-2]) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"got {key} of {got}; expected ({', '.join(map(str, shape))}, H, W)")


def compare(predicted: Mapping[str, Tensor], sample: TruthSample, cap_m: float, protocol: DepthProtocol) -> DepthRow:
    """Compare one prediction with the truth, at the truth's size."""
    key = next((key for key in DEPTH_KEYS if key in predicted), None)
    errors: dict[str, float] = {}
    if any(not bool(value.isfinite().all()) for value in predicted.values()):
        return DepthRow(sample.id, {}, "a prediction that is not finite")
    if key is not None:
        size = sample.depth_m.shape
        p = interpolate(predicted[key][None, None], size=size, mode="bilinear", antialias=False)[0, 0]
        alignment = protocol.of(key)
        try:
            errors = depth_errors(p, key, sample, cap_m, alignment, protocol)
        except ValueError:
            return DepthRow(sample.id, {}, "too few pixels to align")
    angles = None
    if "normal" in predicted and sample.normal is not None:
        n = normalize(interpolate(predicted["normal"][None], size=sample.normal.shape[-2:], mode="bilinear")[0], dim=0)
        angles = angles_deg(n, sample.normal, sample.normal.norm(dim=0) > 0.5)
    return DepthRow(sample.id, errors, None, angles)


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
    return errors


def summarise(rows: Iterable[DepthRow], data: TruthData, protocol: DepthProtocol) -> dict[str, Any]:
    """Return the figures over all samples with what they depend on. The order of the rows does not matter.

    Raises: NonFiniteError if no sample could be compared.
    """
    rows = sorted(rows, key=lambda row: row.id)
    kept = [row for row in rows if row.left_out is None]
    left_out: dict[str, int] = {}
    for row in rows:
        if row.left_out is not None:
            left_out[row.left_out] = left_out.get(row.left_out, 0) + 1
    if not kept:
        reasons = ", ".join(f"{count} with {why}" for why, count in left_out.items()) or "none was there"
        raise NonFiniteError(f"got no sample that could be compared ({reasons}); check the model and the data")
    names = sorted({name for row in kept for name in row.errors})
    figures = {}
    for name in names:
        values = [row.errors[name] for row in kept if name in row.errors]
        figures[name] = math.fsum(values) / len(values)
    angles = [row.angles for row in kept if row.angles is not None]
    return {
        "data": data.name,
        "images": len(kept),
        "left_out": left_out,
        "depth": figures,
        **({"normal": pooled_normal_errors(angles, protocol.pooling)} if angles else {}),
    }


def stated_protocol(protocol: DepthProtocol, data: TruthData, keys: Iterable[str]) -> dict[str, Any]:
    """Return in words what the figures depend on: alignment, space, resolution, mask, clipping."""
    key = next((key for key in DEPTH_KEYS if key in set(keys)), None)
    resolved = None if key is None else replace(protocol, alignment=protocol.of(key)).alignment
    return {
        **asdict(protocol),
        "prediction": key,
        "alignment": resolved,
        "alignment_in_words": None if resolved is None else _MEANING[resolved],
        "space": "depth in metres, errors per image, then the mean over images",
        "resolution": "that of the ground truth; predictions are resized bilinearly",
        "mask": f"pixels with ground truth, as {data.name}'s reader takes them",
        "clipping_m": [_FLOOR_M, data.cap_m if math.isfinite(data.cap_m) else "10 x the largest true depth, in disparity only"],
    }
