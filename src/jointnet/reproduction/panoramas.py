"""Table 2: ways to make a panorama, by time, by how much it is of one piece, by its seams, and by the pictures that it is made of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jointnet.demo.measure.pictures import in_fastest_precision
from jointnet.evaluation.metrics.distribution import kernel_distance
from jointnet.evaluation.metrics.panorama import discontinuity_at_columns, intra_distance
from jointnet.evaluation.models.adapters import generators_of
from jointnet.evaluation.perceptual import Distance, open_distance
from jointnet.evaluation.sync_diffusion import SyncDiffusion
from jointnet.files.atomic import replacing_file
from jointnet.files.fingerprints import of_networks, of_texts
from jointnet.reproduction.measure import FIRST_SEED, Judges, keep
from jointnet.reproduction.setting import Budget
from jointnet.sampling.speed import Speed
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.panorama import Panorama

_WINDOW = 16
_EDGE = 16
"""Pixels between the places where windows at rest can begin and end."""

_SQUARE = 128
"""Pixels a side of the parts that are compared."""

ROUNDS = 3
"""Panoramas of each method that are timed."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to make a panorama.

    Attributes:
        tiling: windows of a step; None: the whole canvas at once.
        sync_weight: SyncDiffusion's, None without it.
        seeds: of each prompt; None: the budget's.
        speed: how much of each step is computed; with one that is not "exact", in its own number of steps.
    """

    tiling: Tiling | None
    sync_weight: float | None = None
    seeds: int | None = None
    speed: str | Speed = "exact"


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


FIGURES = ("intra_distance", "seams_rgb", "seams_depth", "between_rgb", "between_depth")
"""Of each panorama. The score of seams rises with sharpness of any kind, so it is also taken midway between the edges of windows."""


def measure_panoramas(
    pipeline: Any, name: str, judges: Judges, budget: Budget, work: Path, methods: Mapping[str, Method] = PANORAMAS
) -> dict[str, Any]:
    """Make the budget's panoramas by one of the methods; keep the first of each prompt, and all figures: a stopped run goes on.

    Returns: means over all, with the standard deviation of the first as ``intra_spread``.
    """
    pipeline.set_progress_bar_config(disable=True)
    distance = open_distance("eff-lite0")
    method, (num_prompts, num_seeds) = methods[name], budget.panoramas
    options = _options(pipeline, method, distance, budget)
    kept = work / "panoramas" / f"{name} {_known_by(pipeline, method, budget)}"
    kept.mkdir(parents=True, exist_ok=True)
    measured: list[dict[str, Tensor]] = []
    for number, caption in enumerate(judges.scenes.captions[:num_prompts]):
        for at in range(min(method.seeds or num_seeds, num_seeds)):
            seed = FIRST_SEED + number * num_seeds + at
            file = kept / f"prompt {number}, seed {seed}.safetensors"
            if not file.is_file():
                maps = _make(pipeline, caption.text, seed, options)
                if at == 0:
                    keep(work / "pictures", f"panorama {name} {number}", maps)
                with replacing_file(file) as beside:
                    save_file(_measure(maps, judges, distance), beside)
            measured.append(load_file(file))
    values = {figure: [float(of[figure]) for of in measured] for figure in FIGURES}
    features = torch.cat([of["features"] for of in measured]).numpy()
    kid, _ = kernel_distance(judges.reference, features, num_subsets=50, subset=min(len(judges.reference), len(features)))
    return {
        "images": len(measured),
        "distance": distance.words,
        **{figure: mean(of) for figure, of in values.items()},
        "intra_spread": stdev(values["intra_distance"]) if len(measured) > 1 else 0.0,
        "kid_x1000": 1000 * kid,
    }


def time_panoramas(pipeline: Any, judges: Judges, budget: Budget, methods: Mapping[str, Method] = PANORAMAS) -> dict[str, Any]:
    """Make one panorama by each method, in turn and several times, so that whatever else the machine does falls on all of them.

    Returns: ``seconds``, the median of each method; ``ratios``, the median over rounds of a method's seconds to the first one's.
    """
    pipeline.set_progress_bar_config(disable=True)
    distance, text = open_distance("eff-lite0"), judges.scenes.captions[0].text
    options = {name: _options(pipeline, method, distance, budget) for name, method in methods.items()}
    first = next(iter(methods))
    _make(pipeline, text, FIRST_SEED, options[first])  # the first call is not counted
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(ROUNDS):
        for name, of_method in options.items():
            started = time.perf_counter()
            _make(pipeline, text, FIRST_SEED + number, of_method)
            taken[name].append(time.perf_counter() - started)
    ratios = {name: [mine / other for mine, other in zip(seconds, taken[first], strict=True)] for name, seconds in taken.items()}
    return {
        "rounds": ROUNDS,
        "seconds": {name: round(median(seconds), 2) for name, seconds in taken.items()},
        "ratios": {name: round(median(of_rounds), 2) for name, of_rounds in ratios.items()},
    }


def _make(pipeline: Any, text: str, seed: int, options: dict[str, Any]) -> dict[str, Tensor]:
    sampling = SamplingOptions(generator=generators_of([seed]), **options)
    with in_fastest_precision(pipeline.joint_unet):
        maps = pipeline.run(Panorama(prompt=text, options=sampling)).maps
    return {name: value.float().cpu().clamp(0, 1) for name, value in maps.items()}


@torch.no_grad()
def _measure(maps: Mapping[str, Tensor], judges: Judges, distance: Distance) -> dict[str, Tensor]:
    """Figures of a panorama, and ``features`` (4, D) of its squares."""
    rgb, depth = maps["rgb"][0], maps["depth"][0]
    edges, between = (list(range(start, rgb.shape[-1] - 3, _EDGE)) for start in (_EDGE, _EDGE // 2))
    values = (
        intra_distance(rgb, distance),
        *(discontinuity_at_columns(map_, columns) for columns in (edges, between) for map_ in (rgb, depth)),
    )
    features = judges.extractor(torch.stack(rgb.split(_SQUARE, -1))).double()
    return {"features": features, **{name: torch.tensor(value, dtype=torch.float64) for name, value in zip(FIGURES, values, strict=True)}}


def _known_by(pipeline: Any, method: Method, budget: Budget) -> str:
    """Changes with what a panorama of a prompt and a seed depends on."""
    networks = {name: pipeline.components[name] for name in ("joint_unet", "vae", "text_encoder")}
    return of_texts([of_networks(networks), repr(method), str(budget.sampling_steps)])


def _options(pipeline: Any, method: Method, distance: Distance, budget: Budget) -> dict[str, Any]:
    options: dict[str, Any] = {"tiled": method.tiling or False, "speed": method.speed}
    if method.speed == "exact":
        options["num_inference_steps"] = budget.sampling_steps
    if method.sync_weight is not None and method.tiling is not None:
        pipeline.joint_unet.requires_grad_(False)
        cast(nn.Module, pipeline.vae).requires_grad_(False)
        stride = method.tiling.stride or _WINDOW // 2
        options["before_step"] = SyncDiffusion(distance=distance, window=_WINDOW, stride=stride, weight=method.sync_weight)
    return options
