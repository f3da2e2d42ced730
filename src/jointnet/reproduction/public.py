"""The same on a public base and a user's data, at the paper's sizes: pictures against real ones, depth against a public data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from jointnet.data.labelers.labeler import Labeler
from jointnet.data.sample import Source
from jointnet.evaluation.bulk import BulkFolder, generate_all
from jointnet.evaluation.data.sample import TruthData
from jointnet.evaluation.depth import DepthProtocol, evaluate_unit, summarise
from jointnet.evaluation.features import Extractor
from jointnet.evaluation.generation import GenerationProtocol, PictureSets
from jointnet.evaluation.models.adapters import JointNet, TextToImage
from jointnet.reproduction.measure import Measures
from jointnet.reproduction.parts import Reproduction
from jointnet.reproduction.setting import Budget, Setting
from jointnet.reproduction.variants import VARIANTS, Variant
from jointnet.training.config import RunOptions

PAPER = Budget(
    steps=10_000,
    batch=256,
    warmup=1000,
    seeds=(0,),
    checkpoints=(0, 500, 1000, 5000, 10_000),
    prompts=30_000,
    few_prompts=100,
    sampling_steps=50,
)
"""The paper's sizes (Sec. 3.4, 5.1, A.1)."""

GPU_TFLOPS, UTILISATION = 312.0, 0.35
"""An A100's dense bfloat16 peak, and the share of it that is assumed to be reached."""


@dataclass(frozen=True, eq=False)
class PublicMeasures:
    """Measures by public data.

    Attributes:
        prompts: that pictures are made of; reference: real pictures, None without distances.
        extractors: of their features; truth: pictures with depth, None without.
        base_folder, work, size: of the base, of what is made, and pixels of its pictures.
    """

    budget: Budget
    prompts: Sequence[str]
    extractors: Sequence[Extractor]
    base_folder: Path
    work: Path
    size: int
    device: torch.device
    reference: Sequence[Path] | None = None
    truth: TruthData | None = None
    batch: int = 4

    def base(self) -> dict[str, Any]:
        """The base's own pictures."""
        from diffusers import DiffusionPipeline

        base = DiffusionPipeline.from_pretrained(self.base_folder, local_files_only=True).to(self.device)
        model = TextToImage(pipeline=base, steps=self.budget.sampling_steps, size=(self.size, self.size))
        return {"generated": self._pictures(model, self.budget.prompts, "base")}

    def generated(self, pipeline: Any, count: int, name: str, *, is_inverse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - of depth only
        """See ``Measures``: distances, class and CLIP scores."""
        return self._pictures(self._model(pipeline), count, name)

    def predicted(self, pipeline: Any, *, is_inverse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - an alignment takes any sign
        """See ``Measures``: the paper's alignment; nothing without truth, or of a pipeline that does not predict."""
        if self.truth is None or not hasattr(pipeline, "joint_unet"):
            return {}
        protocol = DepthProtocol(alignment="paper", batch=1)
        return summarise([evaluate_unit(self._model(pipeline), self.truth, protocol, range(len(self.truth)))], protocol)["depth"]

    def conditioned(self, pipeline: Any) -> dict[str, Any]:  # noqa: ARG002 - there is no judge of pictures here
        """Nothing: whether a picture shows a depth map is judged on the demo world, whose truth is exact."""
        return {}

    def _model(self, pipeline: Any) -> Any:
        if hasattr(pipeline, "generate"):
            return pipeline
        return JointNet(pipeline=pipeline, steps=self.budget.sampling_steps, size=(self.size, self.size))

    def _pictures(self, model: Any, count: int, name: str) -> dict[str, Any]:
        folder = self.work / "pictures" / name
        texts = list(self.prompts[:count])
        pictures = BulkFolder(folder)
        generate_all(model, texts, pictures, seed=0, batch=self.batch, known_by={"network": name})
        made = [pictures.picture(number) for number in range(len(texts))]
        sets = PictureSets(made, self.reference, self.extractors, self.work / "features")
        sets.compute()
        found = sets.figures(texts, GenerationProtocol(allows_few=True))
        figures = {key: value for of_extractor in found.values() for key, value in of_extractor.items()}
        return {**figures, **({"IS": figures["IS"]["mean"]} if "IS" in figures else {})}


@dataclass(frozen=True)
class PublicReproduction(Reproduction):
    """A public base and a user's data in the demo world's place.

    Attributes:
        base, source, size: what is trained from, on, and at (pixels a side); source None: it is only planned.
        guidance: of sampling; labels, options: as ``Setting``'s.
        public: what is measured; None: it is only planned.
    """

    base: Path = Path()
    source: Source | None = None
    size: int = 512
    guidance: float = 7.5
    labels: Mapping[str, Labeler] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    public: Measures | None = None

    @property
    def names(self) -> list[str]:
        """The demo world's parts but for those that need its judges or its bundled models; LDM3D's and Marigold's weights are public.

        Maps that are labelled are not turned over, so near-dark needs data with depth.
        """
        kept = [name for name, variant in VARIANTS.items() if variant.kind == "joint" and not (variant.is_inverse and self.labels)]
        return ["base", *(f"train {name} {seed}" for seed in self.budget.seeds[:1] for name in kept), "stage 2", "conditions"]

    @property
    def left_out(self) -> list[str]:
        """Parts that the demo world has and a public base has not."""
        variants = [f"train {name}" for name in VARIANTS if f"train {name} {self.budget.seeds[0]}" not in self.names]
        return [*variants, "depth -> image judged by its depth", "panoramas (jointnet evaluate panorama)", "refinement"]

    @cached_property
    def setting(self) -> Setting:
        """Base, data and budget."""
        assert self.source is not None, "it is only planned"
        return Setting(
            base=self.base,
            recipe="stage1",
            source=self.source,
            size=self.size,
            work=self.work,
            budget=self.budget,
            guidance=self.guidance,
            device=self.device,
            labels=self.labels,
            options=self.options,
        )

    @cached_property
    def measures(self) -> Measures:
        """What is measured of a trained network."""
        assert self.public is not None, "it is only planned"
        return self.public

    def recipe(self, stage: str) -> str:
        """The recipe of a later stage."""
        return stage


def count_step(variant: Variant, config: Mapping[str, Any], side: int) -> float:
    """Tera-operations of forward and backward for one sample, on tensors without data; ``side``: of its state, in latent pixels."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(dict(config))
        network = variant.build(unet, 0)
        width, channels = unet.config.cross_attention_dim, unet.config.in_channels
        width = width[0] if isinstance(width, (list, tuple)) else width
        x, t, text = torch.empty(1, 2, channels, side, side), torch.zeros(1, 2), torch.empty(1, 77, width)
    network.requires_grad_(True)
    if isinstance(getattr(network, "branches", None), torch.nn.Module):
        network.branch("rgb").requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        network(x, t, text).sample.sum().backward()
    return counter.get_total_flops() / 1e12


def plan(config: Mapping[str, Any], size: int, factor: int, budget: Budget, names: Sequence[str]) -> list[tuple[str, int, float, float]]:
    """What the trainings of some parts cost: (part, samples, tera-operations a sample, hours on one GPU) each."""
    rows, known = [], {}
    for name in names:
        if name == "base":
            continue
        variant = VARIANTS[name.split()[1]] if name.startswith("train ") else VARIANTS["jointnet"]
        key = name.split()[1] if name.startswith("train ") else "jointnet"
        if key not in known:
            known[key] = count_step(variant, config, size // factor)
        samples = budget.steps * budget.batch
        rows.append((name, samples, known[key], samples * known[key] / (GPU_TFLOPS * UTILISATION) / 3600))
    return rows
