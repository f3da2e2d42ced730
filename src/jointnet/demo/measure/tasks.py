"""The measurement of the tasks: what is known, what is asked, and how far the answer is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jointnet.checkpoints.index import provenance_of
from jointnet.demo.bundled import GUIDANCE
from jointnet.demo.measure.figures import CAP_M, depth_agreement, in_batches
from jointnet.demo.measure.pictures import BATCH, HeldOut, floats, generated, held_out, in_fastest_precision, precision_name
from jointnet.demo.measure.run import FIRST_SEED, round_trip
from jointnet.demo.training.chain import Chain
from jointnet.demo.world.scene import NEAR_M
from jointnet.evaluation.metrics.depth import boundary_f1
from jointnet.evaluation.metrics.normal import angles_deg
from jointnet.files.fingerprints import of_weights
from jointnet.machine.origin import code_commit, machine
from jointnet.pipelines.joint_net import JointNetPipeline

Figures = dict[str, Any]

BLENDING, MASKED, INDEPENDENT, BOTH = "blending alone", "masked input", "independent timesteps", "both"
"""Ways to condition: the first needs no training for it; the last is the one that ships."""
LATENT_REGRESSOR = "regressor of one branch's size, on latents"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How much is measured, and how the models sample."""

    num_scenes: int = 500
    steps: int = 25
    guidance: float = GUIDANCE
    ensemble: int = 8
    strengths: tuple[float, ...] = (0.4, 0.6, 0.8)
    downsampling: int = 4
    edit_size: int = 160


def measure_task(name: str, work: Path, chain: Chain, config: TaskConfig) -> Figures:
    """One section of docs/tasks.md; pictures are kept below ``work`` so that a stopped run goes on. ``name``: one of TASKS."""
    # as it is now: the working copy may change meanwhile
    origin = {"config": asdict(config), "commit": code_commit(), "machine": machine(), "precision": precision_name()}
    with torch.no_grad():
        return {**origin, "rows": TASKS[name](_Run(work, held_out(config.num_scenes), config), chain)}


@dataclass(frozen=True)
class _Run:
    work: Path
    scenes: HeldOut
    config: TaskConfig

    def maps(self, name: str, pipeline: JointNetPipeline, task: Callable[[slice, dict[str, Any]], Any]) -> dict[str, Tensor]:
        """A pipeline's task on the held-out scenes: (scenes, options) -> (images, dense, ...)."""

        def make(scenes: slice, generators: list[torch.Generator]) -> dict[str, Tensor]:
            options = {"num_inference_steps": self.config.steps, "generator": generators, "output_type": "pt", "return_dict": False}
            pipeline.set_progress_bar_config(disable=True)
            images, dense, *_ = task(scenes, options)
            return {"rgb": images, **dense}

        sampled = f"{type(pipeline.scheduler).__name__}-{self.config.steps}-{precision_name()}"
        folder = self.work / f"{name}-{of_weights(pipeline.joint_unet)}-{sampled}"
        return generated(pipeline.joint_unet, make, self.config.num_scenes, folder, FIRST_SEED)


def _ways(chain: Chain) -> dict[str, JointNetPipeline]:
    """The models that were trained for a way to condition, and the one that was trained for none."""
    return {BLENDING: chain.stage2(), MASKED: chain.masked(), INDEPENDENT: chain.independent(), BOTH: chain.tasks()}


def _image_to_depth(run: _Run, chain: Chain) -> Figures:
    ways = _ways(chain)
    rgb, truth, codec = run.scenes.rgb, run.scenes.disparity01, ways[BOTH].codec
    latent_regressor = chain.regressor()
    latents = torch.cat([codec.encode("rgb", part) for part in rgb.split(50)])
    regressed = torch.cat([codec.decode("depth", latent_regressor(part)) for part in latents.split(50)])
    figures = {
        "autoencoder's round trip of the exact depth": depth_agreement(round_trip(codec, "depth", truth), truth),
        LATENT_REGRESSOR: depth_agreement(regressed, truth) | _trained(chain.root / "regressor"),
        "regressor on pixels": depth_agreement(in_batches(chain.depth_judge(), rgb), truth) | _trained(chain.root / "judges" / "depth"),
    }
    for name, ensemble in [*((way, 1) for way in ways), (BOTH, run.config.ensemble)]:
        pipeline = ways[name]

        def task(scenes: slice, options: dict[str, Any], pipeline: JointNetPipeline = pipeline, n: int = ensemble) -> Any:
            return pipeline.predict(rgb[scenes], ensemble=n, **options)

        made = run.maps(f"predict-{ensemble}", pipeline, task)["depth"]
        figures[f"{name}, ensemble of {ensemble}"] = depth_agreement(made, truth) | _trained(pipeline.name_or_path)
    return figures


def _trained(folder: str | Path) -> dict[str, int]:
    """How many samples a network saw in its last stage."""
    return {"samples_seen": provenance_of(folder)["samples_seen"]}


def _image_to_normals(run: _Run, chain: Chain) -> Figures:
    truth, pipeline = run.scenes.normal, chain.rgbdn()

    def task(scenes: slice, options: dict[str, Any]) -> Any:
        return pipeline.predict(run.scenes.rgb[scenes], **options)

    made = run.maps("predict-normals", pipeline, task)
    return {
        "autoencoder's round trip of the exact normals": _angles(round_trip(pipeline.codec, "normal", truth), truth),
        "predicted": _angles(made["normal"], truth),
        "its depth": depth_agreement(made["depth"], run.scenes.disparity01),
    }


def _angles(made: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean angle and share below 11.25 degrees, per image, then the mean (Marigold's pooling)."""
    each = [angles_deg(p, n, n.norm(dim=0) > 0.5) for p, n in zip(made, truth, strict=True)]
    return {"mean_deg": float(np.mean([a.mean() for a in each])), "below_11_25": float(np.mean([(a < 11.25).float().mean() for a in each]))}


def _depth_to_image(run: _Run, chain: Chain) -> Figures:
    ways = _ways(chain)
    truth, prompts = run.scenes.disparity01, [c.text for c in run.scenes.captions]
    read = chain.depth_judge()
    figures = {
        "judge on renders": depth_agreement(in_batches(read, run.scenes.rgb), truth),
        "judge on autoencoded renders": depth_agreement(in_batches(read, round_trip(ways[BOTH].codec, "rgb", run.scenes.rgb)), truth),
    }
    for name, pipeline in ways.items():

        def task(scenes: slice, options: dict[str, Any], pipeline: JointNetPipeline = pipeline) -> Any:
            guidance = run.config.guidance
            return pipeline.condition(prompts[scenes], dense={"depth": truth[scenes]}, guidance_scale=guidance, **options)

        images = floats(run.maps(f"condition-{run.config.guidance:g}", pipeline, task)["rgb"])
        figures[name] = depth_agreement(in_batches(read, images), truth) | _trained(pipeline.name_or_path)
    return figures


def _refinement(run: _Run, chain: Chain) -> Figures:
    pipeline = chain.tasks()
    truth, step = run.scenes.disparity01, run.config.downsampling
    coarse = truth[..., ::step, ::step].repeat_interleave(step, -1).repeat_interleave(step, -2)

    smoothed = round_trip(pipeline.codec, "depth", coarse)
    figures = {"degraded": _sharpness(coarse, truth), "degraded, through the autoencoder alone": _sharpness(smoothed, truth)}
    for strength in run.config.strengths:

        def task(scenes: slice, options: dict[str, Any], strength: float = strength) -> Any:
            return pipeline.refine(run.scenes.rgb[scenes], {"depth": coarse[scenes]}, only=["depth"], strength=strength, **options)

        figures[refined_at(strength)] = _sharpness(run.maps(f"refine-{strength:g}", pipeline, task)["depth"], truth)
    return {**figures, "round trip": _sharpness(round_trip(pipeline.codec, "depth", truth), truth)}


def refined_at(strength: float) -> str:
    """The row of a strength."""
    return f"refined, strength {strength:g}"


def _sharpness(made: Tensor, truth: Tensor) -> dict[str, float]:
    def depth_m(d: Tensor) -> Tensor:
        return NEAR_M / d[0].clamp(NEAR_M / CAP_M, 1)

    f1 = [boundary_f1(depth_m(p), depth_m(d)) for p, d in zip(made, truth, strict=True)]
    return {**depth_agreement(made, truth), "boundary_f1": float(np.mean(f1))}


def _known_pixels(run: _Run, chain: Chain) -> Figures:
    """Largest difference of any known pixel in edits with a hole in both maps, of pictures of another size than the model's."""
    pipeline, worst = chain.tasks(), 0.0
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out(run.config.num_scenes, size=run.config.edit_size)
    mask = torch.zeros_like(scenes.disparity01[:1])
    mask[..., 40:120, 50:130] = 1
    for start in range(0, run.config.num_scenes, BATCH):
        rgb, depth = scenes.rgb[start : start + BATCH], scenes.disparity01[start : start + BATCH]
        generators = [torch.Generator().manual_seed(FIRST_SEED + start + i) for i in range(len(rgb))]
        with in_fastest_precision(pipeline.joint_unet):
            images, dense = pipeline.edit(
                rgb, {"depth": depth}, mask, num_inference_steps=run.config.steps, generator=generators, output_type="pt", return_dict=False
            )
        for edited, known in ((images, rgb), (dense["depth"], depth)):
            worst = max(worst, float(((edited - known) * (mask < 0.5)).abs().max()))
    return {"largest difference": worst}


TASKS: dict[str, Callable[[_Run, Chain], Figures]] = {
    "image-to-depth": _image_to_depth,
    "image-to-normals": _image_to_normals,
    "depth-to-image": _depth_to_image,
    "refinement": _refinement,
    "known-pixels": _known_pixels,
}
"""Measurements, one section of the page each."""
