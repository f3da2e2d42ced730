"""What is measured of a trained variant on the demo world: pictures against their prompts and renders, depth against exact truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from jointnet.demo.bundled import GUIDANCE
from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor
from jointnet.demo.measure.figures import attribute_shares, depth_agreement, in_batches
from jointnet.demo.measure.pictures import BATCH, HeldOut, in_fastest_precision
from jointnet.evaluation.features import Extractor
from jointnet.evaluation.metrics.distribution import Gaussian, frechet_distance, kernel_distance
from jointnet.evaluation.models.adapters import TextToImage, generators_of
from jointnet.reproduction.setting import Budget
from jointnet.tasks.condition import Condition
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.predict import Predict

FIRST_SEED = 1000
NUM_SHOWN = 2
"""Pictures of each network that are kept."""

MakeBatch = Callable[[slice, list[int]], Mapping[str, Tensor]]
"""(which scenes, a seed each) -> maps."""


@dataclass(frozen=True, eq=False)
class Judges:
    """What reads pictures: trained on rendered scenes, or on ImageNet.

    Attributes:
        reference: features (N, D) of renders of the held-out scenes.
    """

    attributes: AttributeJudge
    depth: DepthRegressor
    extractor: Extractor
    scenes: HeldOut
    reference: np.ndarray

    @classmethod
    def of(cls, attributes: AttributeJudge, depth: DepthRegressor, extractor: Extractor, scenes: HeldOut) -> Judges:
        """Read the reference's features."""
        return cls(attributes.eval(), depth.eval(), extractor, scenes, extractor(scenes.rgb).double().numpy())


@torch.no_grad()
def made_by(network: Any, make: MakeBatch, count: int) -> dict[str, Tensor]:
    """Maps for the first scenes, scene i with seed FIRST_SEED + i; ``network`` in the machine's fastest precision."""
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, count, BATCH):
        some = slice(start, min(start + BATCH, count))
        with in_fastest_precision(network):
            made = make(some, [FIRST_SEED + i for i in range(some.start, some.stop)])
        parts.append({name: value.float().cpu() for name, value in made.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def generating(pipeline: Any, prompts: Sequence[str], steps: int) -> MakeBatch:
    """Text -> maps, by a joint pipeline."""

    def make(scenes: slice, seeds: list[int]) -> Mapping[str, Tensor]:
        options = SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds))
        return pipeline.run(Generate(prompt=list(prompts[scenes]), options=options)).maps

    return make


def predicting(pipeline: Any, rgb: Tensor, steps: int) -> MakeBatch:
    """Image -> depth, by a joint pipeline; or by diffusers' Marigold pipeline."""

    def make(scenes: slice, seeds: list[int]) -> Mapping[str, Tensor]:
        if hasattr(pipeline, "joint_unet"):
            options = SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds))
            return pipeline.run(Predict(image=rgb[scenes], options=options)).maps
        predicted = pipeline(
            rgb[scenes],
            num_inference_steps=steps,
            processing_resolution=0,
            batch_size=len(rgb[scenes]),
            generator=generators_of(seeds),
            output_type="pt",
        ).prediction
        return {"depth": predicted}

    return make


def conditioned(pipeline: Any, depth: Tensor, prompts: Sequence[str], steps: int, guidance: float) -> MakeBatch:
    """Depth -> image, by a joint pipeline; or by diffusers' ControlNet pipeline."""

    def make(scenes: slice, seeds: list[int]) -> Mapping[str, Tensor]:
        if hasattr(pipeline, "joint_unet"):
            options = SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds), guidance_scale=guidance)
            return pipeline.run(Condition(prompt=list(prompts[scenes]), dense={"depth": depth[scenes]}, options=options)).maps
        images = pipeline(
            list(prompts[scenes]),
            image=depth[scenes].expand(-1, 3, -1, -1),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators_of(seeds),
            output_type="pt",
            return_dict=False,
        )[0]
        return {"rgb": images}

    return make


def picture_figures(judges: Judges, rgb: Tensor) -> dict[str, float]:
    """Claims of the prompts found in the pictures, and their distance to renders; KID is without bias, so few pictures will do."""
    captions = judges.scenes.captions[: len(rgb)]
    shares = attribute_shares(judges.attributes, rgb.clamp(0, 1), captions)
    features = judges.extractor(rgb.clamp(0, 1)).double().numpy()
    reference = judges.reference[: len(rgb)]
    kid, _ = kernel_distance(reference, features, num_subsets=50, subset=min(500, len(features)))
    figures = {
        "claims": shares["all"],
        "pictures_with_every_claim": shares["picture"],
        "kid_x1000": 1000 * kid,
    }
    if len(rgb) > 2:
        figures["fd"] = frechet_distance(Gaussian.of(reference), Gaussian.of(features))
    return figures


def joint_figures(judges: Judges, maps: Mapping[str, Tensor], *, is_inverse: bool = False) -> dict[str, float]:
    """Figures of generated pictures and, if there is depth, of how well it agrees with what is read off the picture."""
    figures = picture_figures(judges, maps["rgb"])
    if "depth" in maps:
        depth = 1 - maps["depth"] if is_inverse else maps["depth"]
        agreement = depth_agreement(depth, in_batches(judges.depth, maps["rgb"].clamp(0, 1)))
        figures |= {"depth_abs_rel": agreement["abs_rel"], "depth_delta1": agreement["delta1"]}
    return figures


def truth_figures(predicted: Tensor, truth: Tensor, *, is_inverse: bool = False) -> dict[str, float]:
    """Predicted against exact disparity."""
    agreement = depth_agreement(1 - predicted if is_inverse else predicted, truth)
    return {"abs_rel": agreement["abs_rel"], "delta1": agreement["delta1"]}


class Measures(Protocol):
    """What is measured of trained networks, wherever the claims are tested."""

    def base(self) -> dict[str, Any]:
        """Figures of the base itself."""
        ...

    def generated(self, pipeline: Any, count: int, name: str, *, is_inverse: bool = False) -> dict[str, Any]:
        """Figures of pictures of prompts; some are kept under a name."""
        ...

    def predicted(self, pipeline: Any, *, is_inverse: bool = False) -> dict[str, Any]:
        """Figures of image -> depth."""
        ...

    def conditioned(self, pipeline: Any) -> dict[str, Any]:
        """Figures of depth -> image."""
        ...


@dataclass(frozen=True, eq=False)
class DemoMeasures:
    """Measures of the demo world.

    Attributes:
        base_folder: of the text-to-image pipeline; pictures: folder of those that are kept.
    """

    judges: Judges
    budget: Budget
    base_folder: Path
    pictures: Path

    def base(self) -> dict[str, Any]:
        """The base's own pictures, and the renders'."""
        base = StableDiffusionPipeline.from_pretrained(self.base_folder, local_files_only=True)
        base.set_progress_bar_config(disable=True)
        model = TextToImage(pipeline=base, steps=self.budget.sampling_steps, guidance=GUIDANCE)
        prompts, scenes = self._prompts(self.budget.prompts), self.judges.scenes
        made = made_by(base.unet, lambda some, seeds: model.generate(prompts[some], seeds), self.budget.prompts)
        return {
            "generated": picture_figures(self.judges, made["rgb"]),
            "renders": picture_figures(self.judges, scenes.rgb),
            "judge on renders": truth_figures(in_batches(self.judges.depth, scenes.rgb), scenes.disparity01),
        }

    def generated(self, pipeline: Any, count: int, name: str, *, is_inverse: bool = False) -> dict[str, Any]:
        """See ``Measures``."""
        prompts, steps = self._prompts(count), self.budget.sampling_steps
        if hasattr(pipeline, "generate"):
            maps = made_by(pipeline.pipeline.joint_unet, lambda some, seeds: pipeline.generate(prompts[some], seeds), count)
        else:
            maps = made_by(pipeline.joint_unet, generating(pipeline, prompts, steps), count)
        keep(self.pictures, name, maps)
        return joint_figures(self.judges, maps, is_inverse=is_inverse)

    def predicted(self, pipeline: Any, *, is_inverse: bool = False) -> dict[str, Any]:
        """See ``Measures``: against exact disparity."""
        scenes = self.judges.scenes
        network = getattr(pipeline, "joint_unet", None) or pipeline.unet
        made = made_by(network, predicting(pipeline, scenes.rgb, self.budget.sampling_steps), self.budget.prompts)
        return truth_figures(made["depth"], scenes.disparity01, is_inverse=is_inverse)

    def conditioned(self, pipeline: Any) -> dict[str, Any]:
        """See ``Measures``: what is read off pictures of exact depth against it, and claims."""
        scenes, count = self.judges.scenes, self.budget.prompts
        network = getattr(pipeline, "joint_unet", None) or pipeline.unet
        make = conditioned(pipeline, scenes.disparity01, self._prompts(count), self.budget.sampling_steps, GUIDANCE)
        rgb = made_by(network, make, count)["rgb"].clamp(0, 1)
        return {**truth_figures(in_batches(self.judges.depth, rgb), scenes.disparity01), **picture_figures(self.judges, rgb)}

    def _prompts(self, count: int) -> list[str]:
        return [caption.text for caption in self.judges.scenes.captions[:count]]


def checkpoint_name(variant: str, step: int) -> str:
    """The name that pictures of a network are kept under, as it is at a step; that of its end has the seed in the step's place."""
    return f"{variant} step {step}"


def keep(folder: Path, name: str, maps: Mapping[str, Tensor]) -> None:
    """Keep the first pictures for the page."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value[:NUM_SHOWN].float().cpu().contiguous() for key, value in maps.items() if key in ("rgb", "depth", "normal")}
    save_file(kept, folder / f"{name}.safetensors")
