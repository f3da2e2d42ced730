"""Table 2: ways to make a panorama, by time, by how much it is of one piece, by its seams, and by the pictures that it is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, cast

import torch
from torch import Tensor, nn

from jointnet.demo.measure.pictures import in_fastest_precision
from jointnet.evaluation.metrics.distribution import kernel_distance
from jointnet.evaluation.metrics.panorama import discontinuity_at_columns, intra_distance
from jointnet.evaluation.models.adapters import generators_of
from jointnet.evaluation.perceptual import Distance, open_distance
from jointnet.evaluation.sync_diffusion import SyncDiffusion
from jointnet.reproduction.measure import FIRST_SEED, Judges, keep
from jointnet.reproduction.setting import Budget
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.panorama import Panorama

_WINDOW = 16
_SQUARE = 128
"""Pixels a side of the parts that are compared."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to make a panorama.

    Attributes:
        tiling: windows of a step; None: the whole canvas at once.
        sync_weight: SyncDiffusion's, None without it.
        seeds: of each prompt; None: the budget's.
    """

    tiling: Tiling | None
    sync_weight: float | None = None
    seeds: int | None = None


def _at_rest(stride: int) -> Tiling:
    """Windows in the same places in every step, all of one weight."""
    return Tiling(window=_WINDOW, stride=stride, decay=0, whole_share=0, has_random_offset=False)


WEAKER_SYNC = 20 * (16 / 64) ** 2 * 0.63 / 4.6
"""Weight 20 scaled down by an argument, not by a measurement: a distance is a mean over a window, so its gradient at one latent pixel is 16
times as strong on 16 x 16 of them as on the paper's 64 x 64; and in one panorama the distance was 4.6, where the paper's LPIPS is 0.63.
"""

PANORAMAS = {
    "non-tiled": Method(tiling=None),
    "MultiDiffusion": Method(tiling=_at_rest(2)),
    "SyncDiffusion": Method(tiling=_at_rest(4), sync_weight=20),
    "SyncDiffusion, weaker": Method(tiling=_at_rest(4), sync_weight=WEAKER_SYNC, seeds=1),
    "paper": Method(tiling=Tiling(window=_WINDOW)),
    "paper, windows at rest": Method(tiling=Tiling(window=_WINDOW, has_random_offset=False)),
    "paper, without the whole image": Method(tiling=Tiling(window=_WINDOW, whole_share=0)),
    "paper, without decay": Method(tiling=Tiling(window=_WINDOW, decay=0)),
}
"""Methods by name. Strides are the same shares of a window as the paper's: 8, 16 and 32 of 64. SyncDiffusion's weight is its paper's; the
weaker one was added after a first look at it, and no claim is judged by it.
"""


def measure_panoramas(pipeline: Any, method: str, judges: Judges, budget: Budget, pictures: Path) -> dict[str, Any]:
    """Make the budget's panoramas by a method; keep the first of each prompt.

    Returns: ``seconds``, the median of one; means over all, with the standard deviation of the first as ``intra_spread``.
    """
    pipeline.set_progress_bar_config(disable=True)
    distance = open_distance("eff-lite0")
    chosen, (num_prompts, num_seeds) = PANORAMAS[method], budget.panoramas
    options = _options(pipeline, chosen, distance)
    seconds: list[float] = []
    found: dict[str, list[float]] = {"intra_distance": [], "seams_rgb": [], "seams_depth": []}
    squares: list[Tensor] = []
    for number, caption in enumerate(judges.scenes.captions[:num_prompts]):
        for seed in range(min(chosen.seeds or num_seeds, num_seeds)):
            generator = generators_of([FIRST_SEED + number * num_seeds + seed])
            sampling = SamplingOptions(num_inference_steps=budget.sampling_steps, generator=generator, **options)
            started = time.perf_counter()
            with in_fastest_precision(pipeline.joint_unet):
                maps = pipeline.run(Panorama(prompt=caption.text, options=sampling)).maps
            seconds.append(time.perf_counter() - started)
            rgb, depth = maps["rgb"][0].float().clamp(0, 1), maps["depth"][0].float().clamp(0, 1)
            columns = list(range(_WINDOW, rgb.shape[-1] - 3, _WINDOW))
            with torch.no_grad():
                found["intra_distance"].append(intra_distance(rgb, distance))
            found["seams_rgb"].append(discontinuity_at_columns(rgb, columns))
            found["seams_depth"].append(discontinuity_at_columns(depth, columns))
            squares.append(torch.stack(rgb.split(_SQUARE, -1)))
            if seed == 0:
                keep(pictures, f"panorama {method} {number}", maps)
    features = judges.extractor(torch.cat(squares)).double().numpy()
    kid, _ = kernel_distance(judges.reference, features, num_subsets=50, subset=min(len(judges.reference), len(features)))
    return {
        "images": len(seconds),
        "seconds": round(median(seconds), 2),
        "distance": distance.words,
        **{name: mean(values) for name, values in found.items()},
        "intra_spread": stdev(found["intra_distance"]) if len(seconds) > 1 else 0.0,
        "kid_x1000": 1000 * kid,
    }


def _options(pipeline: Any, method: Method, distance: Distance) -> dict[str, Any]:
    if method.tiling is None:
        return {"tiled": False}
    if method.sync_weight is None:
        return {"tiled": method.tiling}
    pipeline.joint_unet.requires_grad_(False)
    cast(nn.Module, pipeline.vae).requires_grad_(False)
    sync = SyncDiffusion(distance=distance, window=_WINDOW, stride=method.tiling.stride or _WINDOW // 2, weight=method.sync_weight)
    return {"tiled": method.tiling, "before_step": sync}
