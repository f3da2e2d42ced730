"""Where the paper's claims are tested: a base, data, and how long each network is trained and how much of it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from jointnet.data.labelers.labeler import Labeler
from jointnet.data.sample import Sample, Source
from jointnet.loading import without_progress_bars
from jointnet.pipelines.bases import components_of, open_base
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import get_recipe
from jointnet.training.config import RunOptions, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is trained and measured.

    Attributes:
        steps, batch: of each training; warmup: steps of rising rate.
        seeds: of the trainings that are repeated.
        checkpoints: steps at which the progress of some is looked at (Fig. 9), 0 being the start.
        prompts: pictures of a finished network; few_prompts: of a checkpoint.
        sampling_steps: of denoising.
        panoramas: prompts and seeds of each panorama method.
        scenes: of the training data.
    """

    steps: int = 500
    batch: int = 32
    warmup: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoints: tuple[int, ...] = (0, 50, 100, 200, 500)
    prompts: int = 300
    few_prompts: int = 100
    sampling_steps: int = 20
    panoramas: tuple[int, int] = (16, 5)
    scenes: int = 16_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trainings share.

    Attributes:
        base: folder of the text-to-image pipeline.
        recipe: whose settings stage 1 has, but for the budget's.
        source: training samples; size: pixels of them.
        work: folder of runs and of encoded samples.
        guidance: of sampling.
        labels: labelers of maps that the source has not; options: how runs are carried out.
    """

    base: Path
    recipe: str
    source: Source
    size: int
    work: Path
    budget: Budget
    guidance: float
    device: torch.device
    labels: Mapping[str, Labeler] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)

    def config(self, seed: int, recipe: str | None = None) -> TrainConfig:
        """Stage 1, or another recipe, in the budget."""
        stage = get_recipe(recipe or self.recipe)
        optim = replace(stage.optim, steps=self.budget.steps, batch_size=self.budget.batch, warmup_steps=self.budget.warmup, seed=seed)
        return replace(stage, optim=optim, size=self.size)

    def base_pipeline(self) -> Any:
        """The text-to-image pipeline, opened anew: whoever trains it may change it."""
        with without_progress_bars():
            opened = open_base(self.base, local_files_only=True)
        opened.to(self.device)
        return opened

    def joint_pipeline(self, network: Any, base: Any) -> JointNetPipeline:
        """A network in the place of the base's U-Net."""
        pipeline = JointNetPipeline(joint_unet=network.to(self.device), **components_of(base))
        pipeline.register_to_config(default_guidance=self.guidance)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@dataclass(frozen=True)
class WrappedSource:
    """A Source that changes the samples of another."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def blocks(self) -> Sequence[int]:
        """As the other's."""
        return self.source.blocks

    @property
    def depth_near_m(self) -> float | None:
        """As the other's."""
        return self.source.depth_near_m

    def id_of(self, row: int) -> str:
        """As the other's."""
        return self.source.id_of(row)


class InverseDepth(WrappedSource):
    """A Source whose depth maps are turned over: near is dark."""

    @property
    def depth_near_m(self) -> None:
        """Not stated: the numbers are no near / z any more."""
        return

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        """Read a sample and turn its depth over."""
        sample = self.source.read(row, modalities)
        maps = {name: 1 - map_ if name == "depth" else map_ for name, map_ in sample.maps.items()}
        return replace(sample, maps=maps)

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """The source's, marked."""
        return {name: f"1 - {of}" if name == "depth" else of for name, of in self.source.contents(modalities).items()}
