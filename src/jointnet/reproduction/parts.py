"""The parts of the reproduction on the demo world. Each is done by itself; its figures are kept, so a stopped run goes on with the next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jointnet.demo.bundled import GUIDANCE, TASK_MODEL, bundled_folder
from jointnet.demo.measure.figures import depth_agreement, in_batches
from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.demo.measure.pictures import held_out, precision_name
from jointnet.demo.training.chain import Chain
from jointnet.demo.training.source import SceneSource
from jointnet.evaluation.features import open_extractor
from jointnet.evaluation.models.adapters import generators_of
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.reproduction.measure import DemoMeasures, Judges, Measures, checkpoint_name, made_by
from jointnet.reproduction.panoramas import PANORAMAS, measure_panoramas, time_panoramas
from jointnet.reproduction.setting import Budget, Setting
from jointnet.reproduction.train import Trained, train_next_stage, train_variant
from jointnet.reproduction.variants import VARIANTS
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.predict import Predict
from jointnet.tasks.refine import Refine

Figures = dict[str, Any]
FOLLOWED = ("jointnet", "direct-copy", "direct-zeros", "direct-random")
"""Variants whose progress is looked at (Fig. 9), with the first seed."""

REPEATED = ("jointnet", "direct-copy", "independent", "rgb-to-depth")
"""Variants that are trained with every seed."""

PROGRESS_FILE = "progress.json"
"""In a run's folder: figures of its checkpoints, so that a resumed run still has them."""


@dataclass(frozen=True)
class Reproduction:
    """The demo world as the place where the claims are tested."""

    work: Path
    budget: Budget
    device: torch.device

    @property
    def names(self) -> list[str]:
        """All parts, in the order in which they are done."""
        trained = [f"train {name} {seed}" for name in VARIANTS for seed in self.seeds_of(name)]
        order = sorted(trained, key=lambda part: int(part.rsplit(" ", 1)[1]))
        panoramas = [f"panorama {name}" for name in PANORAMAS]
        return ["base", *order, "stage 2", "conditions", *panoramas, "times of panoramas", "refinement"]

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """Seeds that a variant is trained with."""
        return self.budget.seeds if variant in REPEATED else self.budget.seeds[:1]

    def run(self, part: str) -> Figures:
        """Do a part, with where its figures come from. Raises: KeyError for none of ``names``."""
        known_by = {"commit": code_commit(), "machine": machine(), "precision": precision_name(), "threads": torch.get_num_threads()}
        started = time.monotonic()
        kind, _, rest = part.partition(" ")
        if kind == "train":
            name, seed = rest.split()
            figures = self._train(name, int(seed))
        elif kind == "panorama":
            figures = self._panorama(rest)
        else:
            steps: dict[str, Callable[[], Figures]] = {
                "base": self.measures.base,
                "stage 2": self._stage2,
                "conditions": self._conditions,
                "times of panoramas": lambda: time_panoramas(load("demo"), self.judges, self.budget),
                "refinement": self._refinement,
            }
            figures = steps[part]()
        return {**figures, **known_by, "minutes": round((time.monotonic() - started) / 60, 1)}

    @cached_property
    def setting(self) -> Setting:
        """Base, data and budget."""
        return Setting(
            base=bundled_folder("demo-base"),
            recipe="demo-stage1",
            source=SceneSource(self.chain.scenes()),
            size=128,
            work=self.work,
            budget=self.budget,
            guidance=GUIDANCE,
            device=self.device,
        )

    @cached_property
    def chain(self) -> Chain:
        """The demo's own chain, for its scenes and judges; the judges are those that are kept."""
        chain = Chain(self.work, training_scenes=self.budget.scenes, device=self.device)
        install_judges(self.work)
        return chain

    @cached_property
    def judges(self) -> Judges:
        """What reads the pictures."""
        attributes, depth = self.chain.judges()
        return Judges.of(attributes, depth, open_extractor("eff-lite0"), held_out(self.budget.prompts))

    @cached_property
    def measures(self) -> Measures:
        """What is measured of a trained network."""
        return DemoMeasures(self.judges, self.budget, self.setting.base, self.work / "pictures")

    def _train(self, name: str, seed: int) -> Figures:
        variant, kept = VARIANTS[name], self._folder(name, seed) / PROGRESS_FILE
        progress = load_figures(kept)
        is_watched = name in FOLLOWED and seed == self.budget.seeds[0]

        def watch(step: int, pipeline: Any) -> None:
            if str(step) not in progress:
                progress[str(step)] = self.measures.generated(pipeline, self.budget.few_prompts, checkpoint_name(name, step))
                save_figures(progress, kept)

        checkpoints = self.budget.checkpoints if is_watched else ()
        trained = train_variant(self.setting, variant, seed, self._folder(name, seed), checkpoints=checkpoints, watch=watch)
        figures: Figures = {"about": variant.about, **_facts(trained)}
        if progress:
            figures["progress"] = progress
        if variant.kind in ("joint", "rgbd-autoencoder"):
            figures["generated"] = self.measures.generated(
                trained.pipeline, self.budget.prompts, f"{name} {seed}", is_inverse=variant.is_inverse
            )
        if variant.kind == "joint" and variant.dense == "depth":
            figures["predicted by blending"] = self.measures.predicted(trained.pipeline, is_inverse=variant.is_inverse)
        if variant.kind == "image-conditioned":
            figures["predicted"] = self.measures.predicted(trained.pipeline)
        if variant.kind == "controlnet":
            figures["conditioned"] = self.measures.conditioned(trained.pipeline)
        if variant.kind == "joint":
            trained.pipeline.joint_unet.save_pretrained(self._folder(name, seed) / "network")
        return figures

    def _stage2(self) -> Figures:
        """Stage 2 from stage 1's result, and for as long."""
        trained = train_next_stage(
            self.setting, self._first_stage(), self.recipe("stage2"), self.budget.seeds[0], self._folder("stage2", 0)
        )
        made = self.measures.generated(trained.pipeline, self.budget.prompts, "stage 2")
        return {"about": "JointNet, stages 1 and 2", **_facts(trained), "generated": made}

    def _conditions(self) -> Figures:
        """The stage with both ways to condition, from stage 1's result."""
        trained = train_next_stage(self.setting, self._first_stage(), self.recipe("tasks"), self.budget.seeds[0], self._folder("tasks", 0))
        return {
            "about": "JointNet, stage 1 and the stage of conditions",
            **_facts(trained),
            "generated": self.measures.generated(trained.pipeline, self.budget.prompts, "conditions"),
            "predicted": self.measures.predicted(trained.pipeline),
            "conditioned": self.measures.conditioned(trained.pipeline),
        }

    def recipe(self, stage: str) -> str:
        """The recipe of a later stage."""
        return f"demo-{stage}"

    def _first_stage(self) -> Any:
        """JointNet's stage 1 of the first seed; it is trained if it is not there."""
        from jointnet.models.joint_unet import JointUNet

        folder = self._folder("jointnet", self.budget.seeds[0])
        if not (folder / "network").is_dir():
            train_variant(self.setting, VARIANTS["jointnet"], self.budget.seeds[0], folder).pipeline.joint_unet.save_pretrained(
                folder / "network"
            )
        return self.setting.joint_pipeline(JointUNet.from_pretrained(folder / "network"), self.setting.base_pipeline())

    def _panorama(self, method: str) -> Figures:
        """Table 2 with the bundled model."""
        return measure_panoramas(load("demo"), method, self.judges, self.budget, self.work)

    def _refinement(self) -> Figures:
        """Table 6 with a regressor at a quarter of the resolution in MiDaS's place; the bundled model that was trained to condition."""
        pipeline = load(TASK_MODEL)
        pipeline.set_progress_bar_config(disable=True)
        scenes, steps = self.judges.scenes, self.budget.sampling_steps
        small = torch.nn.functional.interpolate(scenes.rgb, scale_factor=0.25, mode="bilinear", antialias=True)
        seen = torch.nn.functional.interpolate(small, size=scenes.rgb.shape[-2:], mode="bilinear")
        coarse = in_batches(self.judges.depth, seen).clamp(0, 1)
        rows = {
            "regressor at a quarter of the resolution": coarse,
            "regressor at full resolution": in_batches(self.judges.depth, scenes.rgb),
        }

        def refine(scenes_: slice, seeds: list[int]) -> Any:
            request = Refine(
                image=scenes.rgb[scenes_],
                dense={"depth": coarse[scenes_]},
                only=["depth"],
                strength=0.4,
                options=SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds)),
            )
            return pipeline.run(request).maps

        def predict(scenes_: slice, seeds: list[int]) -> Any:
            options = SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds))
            return pipeline.run(Predict(image=scenes.rgb[scenes_], options=options)).maps

        rows["JointNet, image to depth"] = made_by(pipeline.joint_unet, predict, self.budget.prompts)["depth"]
        rows["regressor at a quarter, refined by JointNet"] = made_by(pipeline.joint_unet, refine, self.budget.prompts)["depth"]
        return {"rows": {name: _truth(value, scenes.disparity01) for name, value in rows.items()}}

    def _folder(self, variant: str, seed: int) -> Path:
        return self.work / "runs" / f"{variant}-{seed}"


def install_judges(work: Path) -> None:
    """Put the judges that the repository keeps where the chain looks for them; without them it trains its own."""
    kept = Path(__file__).parents[3] / "checkpoints" / "demo-regressors"
    for source, target in (("attributes", "judges/attributes"), ("pixels", "judges/depth"), ("latents", "regressor")):
        folder = work / target
        weights = folder / ("judge.safetensors" if target.startswith("judges") else "regressor.safetensors")
        if (kept / f"{source}.safetensors").is_file() and not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(kept / f"{source}.safetensors", weights)


def _facts(trained: Trained) -> Figures:
    return {
        "seconds": trained.seconds,
        "samples": trained.samples,
        "last_loss": round(trained.loss, 4),
        "trained_parameters_m": trained.parameters_m,
    }


def _truth(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """AbsRel in depth, and the root mean square in disparity, as Table 6 has them."""
    from jointnet.evaluation.metrics.alignment import fit_scale_shift

    agreement = depth_agreement(predicted, truth)
    errors = []
    for p, d in zip(predicted, truth, strict=True):
        valid = d > 0
        if int(valid.sum()) > 1:
            errors.append(float((fit_scale_shift(p, d, valid)(p) - d)[valid].square().mean().sqrt()))
    return {"abs_rel": agreement["abs_rel"], "delta1": agreement["delta1"], "rmse_disparity": sum(errors) / len(errors)}
