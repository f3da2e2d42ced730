"""The first measurement of the demo models: floors, attributes, agreement of depth and image, image distances."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.demo.bundled import GUIDANCE, TASK_MODEL, bundled_folder
from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor
from jointnet.demo.measure.figures import attribute_shares, depth_agreement, in_batches
from jointnet.demo.measure.pictures import MakeBatch, floats, generated, held_out, precision_name, uint8
from jointnet.demo.measure.report import write_grid
from jointnet.evaluation.features import open_extractor
from jointnet.evaluation.metrics.distribution import bootstrap_frechet, kernel_distance
from jointnet.evaluation.metrics.image import psnr
from jointnet.files.fingerprints import of_weights
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.pipelines.joint_net import JointNetPipeline

FIRST_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How much is measured, and how the models sample."""

    num_prompts: int = 500
    num_images: int = 3000
    steps: int = 25
    guidance: float = GUIDANCE
    num_bootstrap: int = 100
    num_validation: int = 100
    guidances: tuple[float, ...] = (1, 2, 3, 4, 6)

    def sampling(self) -> dict[str, Any]:
        """The options that both pipelines share."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance}


@torch.no_grad()
def measure(work: Path, judges: tuple[AttributeJudge, DepthRegressor], config: MeasureConfig, grid: Path) -> dict[str, Any]:
    """Measure the bundled models; pictures are kept below ``work`` so that a stopped run goes on.

    Writes 16 samples to ``grid`` and returns all figures.
    """
    # as it is now: the working copy may change meanwhile
    code = {"commit": code_commit(), "machine": machine(), "precision": precision_name()}
    attribute_judge, depth_regressor = judges[0].eval(), judges[1].eval()
    extractor = open_extractor("eff-lite0")
    joint = load("demo")
    joint.set_progress_bar_config(disable=True)
    base = StableDiffusionPipeline.from_pretrained(bundled_folder("demo-base"), local_files_only=True)
    base.set_progress_bar_config(disable=True)

    scenes = held_out(config.num_images)
    prompts = [c.text for c in scenes.captions]
    few = config.num_prompts
    captions = scenes.captions[:few]
    rgb, disparity01, normal = scenes.rgb[:few], scenes.disparity01[:few], scenes.normal[:few]
    all_decoded = round_trip(joint.codec, "rgb", scenes.rgb)
    decoded = {n: round_trip(joint.codec, n, m) for n, m in {"depth": disparity01, "normal": normal}.items()} | {"rgb": all_decoded[:few]}

    sampled = f"{type(joint.scheduler).__name__}-{config.steps}-{config.guidance:g}-{precision_name()}"
    base_folder = work / f"base-{of_weights(base.unet)}-{sampled}"
    joint_folder = work / f"joint-{of_weights(joint.joint_unet)}-{sampled}"
    by_base = generated(base.unet, _with_base(base, prompts, config), len(prompts), base_folder, FIRST_SEED)
    by_joint = generated(joint.joint_unet, _with_joint(joint, prompts, config), len(prompts), joint_folder, FIRST_SEED)
    images = {"base": floats(by_base["rgb"][:few]), "joint": floats(by_joint["rgb"][:few])}
    read_depth = {n: in_batches(depth_regressor, i) for n, i in {**images, "renders": rgb, "decoded": decoded["rgb"]}.items()}
    depth = by_joint["depth"][:few]
    write_grid(images["joint"][:16], depth[:16], grid)

    reference = extractor(floats(uint8(scenes.rgb))).double().numpy()
    features = {name: extractor(floats(made["rgb"])).double().numpy() for name, made in {"base": by_base, "joint": by_joint}.items()}
    features["autoencoded renders"] = extractor(floats(uint8(all_decoded))).double().numpy()
    return {
        "config": asdict(config),
        **code,
        "features": extractor.words,
        "scheduler": type(joint.scheduler).__name__.removesuffix("Scheduler"),
        "autoencoder_psnr_db": {
            "rgb": float(psnr(decoded["rgb"], rgb).mean()),
            "depth": float(psnr(decoded["depth"], disparity01).mean()),
            "normal": float(psnr((decoded["normal"] + 1) / 2, (normal + 1) / 2).mean()),
        },
        "sampling": compare_sampling(work, judges, config),
        "attributes": {
            "renders": attribute_shares(attribute_judge, rgb, captions),
            "autoencoded renders": attribute_shares(attribute_judge, decoded["rgb"], captions),
            "base": attribute_shares(attribute_judge, images["base"], captions),
            "joint": attribute_shares(attribute_judge, images["joint"], captions),
        },
        "depth": {
            "regressor on renders": depth_agreement(read_depth["renders"], disparity01),
            "regressor on autoencoded renders": depth_agreement(read_depth["decoded"], disparity01),
            "autoencoded depth": depth_agreement(decoded["depth"], disparity01),
            "generated depth": depth_agreement(depth, read_depth["joint"]),
            "generated depth, shuffled": depth_agreement(depth, read_depth["joint"].roll(1, 0)),
        },
        "distance": {
            name: {
                "fd": asdict(bootstrap_frechet(reference, value, num_draws=config.num_bootstrap)),
                "kid": kernel_distance(reference, value),
            }
            for name, value in features.items()
        },
    }


@torch.no_grad()
def compare_sampling(work: Path, judges: tuple[AttributeJudge, DepthRegressor], config: MeasureConfig) -> list[dict[str, Any]]:
    """Effects of guidance scale, scheduler and stage on prompts of validation scenes: claims found, and how far depth and image agree."""
    attribute_judge, depth_regressor = judges[0].eval(), judges[1].eval()
    captions = held_out(config.num_validation, split="validation").captions
    prompts = [c.text for c in captions]
    variants = [("demo", DDPMScheduler, guidance) for guidance in config.guidances]
    variants += [("demo", DDIMScheduler, config.guidance), (TASK_MODEL, DDPMScheduler, config.guidance)]
    rows = []
    for name, scheduler, guidance in variants:
        joint = load(name)
        joint.set_progress_bar_config(disable=True)
        joint.scheduler = scheduler.from_config({**joint.scheduler.config, "set_alpha_to_one": False})
        folder = work / f"validation-{of_weights(joint.joint_unet)}-{scheduler.__name__}-{config.steps}-{guidance:g}-{precision_name()}"
        make = _with_joint(joint, prompts, replace(config, guidance=guidance))
        made = generated(joint.joint_unet, make, len(prompts), folder, FIRST_SEED)
        images = floats(made["rgb"])
        agreement = depth_agreement(made["depth"], in_batches(depth_regressor, images))
        claims = attribute_shares(attribute_judge, images, captions)["all"]
        setting = {"model": name, "scheduler": scheduler.__name__.removesuffix("Scheduler"), "guidance": guidance}
        rows.append({**setting, "claims": claims, "abs_rel": agreement["abs_rel"], "delta1": agreement["delta1"]})
    return rows


def round_trip(codec: Codec, modality: str, maps: Tensor) -> Tensor:
    return torch.cat([codec.decode(modality, codec.encode(modality, part)) for part in maps.split(50)])


def _with_base(base: StableDiffusionPipeline, prompts: list[str], config: MeasureConfig) -> MakeBatch:
    def make(scenes: slice, generators: list[torch.Generator]) -> dict[str, Tensor]:
        result = base(prompts[scenes], generator=generators, output_type="pt", return_dict=False, **config.sampling())
        return {"rgb": result[0]}

    return make


def _with_joint(joint: JointNetPipeline, prompts: list[str], config: MeasureConfig) -> MakeBatch:
    def make(scenes: slice, generators: list[torch.Generator]) -> dict[str, Tensor]:
        images, dense = joint(prompts[scenes], generator=generators, output_type="pt", return_dict=False, **config.sampling())
        return {"rgb": images, **dense}

    return make
