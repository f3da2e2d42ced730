"""The demo models from nothing: scenes, autoencoder, base, joint stages. Each step resumes, and is skipped once it is done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from jointnet.checkpoints.card import write_card
from jointnet.checkpoints.folder import replacing, save_half
from jointnet.checkpoints.index import PROVENANCE_FILE, VOCABULARY_FILE, provenance_of, stages_of
from jointnet.codecs.codec import Codec
from jointnet.codecs.latent import LatentCodec
from jointnet.data.bad_samples import BadSamples
from jointnet.data.latents import LatentStore
from jointnet.demo.bundled import BUILD_STEPS, BUNDLED, GUIDANCE, WEIGHTS
from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor
from jointnet.demo.judges.train import judge_config, train_attribute_judge, train_depth_regressor
from jointnet.demo.training.autoencoder import autoencoder_config, train_autoencoder
from jointnet.demo.training.base import base_phases, train_base
from jointnet.demo.training.regressor import LatentRegressor, regressor_config, train_latent_regressor
from jointnet.demo.training.source import SceneSource
from jointnet.demo.world.cache import SceneCache
from jointnet.demo.world.captions import vocabulary
from jointnet.demo.world.scene import NEAR_M
from jointnet.errors import ModelFolderError, RunFolderError, UnknownNameError
from jointnet.files.atomic import bring_to_disk, replacing_file, write_json
from jointnet.machine.origin import code_commit
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import get_recipe
from jointnet.training.config import RunOptions, TrainConfig
from jointnet.training.encode import encode_source, latent_store
from jointnet.training.joint import keeping_abilities, train_joint
from jointnet.training.provenance import write_provenance
from jointnet.training.run import claim, open_run
from jointnet.training.stage import stage_feed, stage_objective
from jointnet.training.state import Progress

Judge = TypeVar("Judge", bound=nn.Module)

_NUM_READERS = 4
"""Processes that read a joint stage's samples ahead, where a GPU would wait for them."""


@dataclass(frozen=True)
class Chain:
    """A working folder with one folder a step; ``budget_minutes`` limits each training step, which runs on ``device``."""

    root: Path
    budget_minutes: float | None = None
    autoencoder_scenes: int = 12_000
    training_scenes: int = 24_000
    device: torch.device | str = "cpu"

    def scenes(self) -> SceneCache:
        """Rendered training scenes."""
        cache = SceneCache(self.root / "scenes", "train", self.training_scenes)
        cache.build(self.device)
        return cache

    def autoencoder(self) -> AutoencoderKL:
        """The base's autoencoder."""
        folder = self.root / "autoencoder" / "model"
        if not (folder / PROVENANCE_FILE).exists():
            scenes = SceneCache(self.root / "scenes", "train", self.autoencoder_scenes)
            scenes.build(self.device)
            vae, progress = train_autoencoder(scenes, folder.parent, budget_minutes=self.budget_minutes, device=self.device)
            vae.half().save_pretrained(folder)
            bring_to_disk(folder)
            write_provenance(folder, "demo-autoencoder", autoencoder_config(), progress, scenes=f"train 0..{self.autoencoder_scenes - 1}")
        return AutoencoderKL.from_pretrained(folder)

    def base(self) -> StableDiffusionPipeline:
        """The text-to-image base, a genuine Stable Diffusion folder."""
        folder = self.root / "base" / "model"
        if not (folder / PROVENANCE_FILE).exists():
            vae = self.autoencoder()
            cast(nn.Module, vae).to(self.device)
            store = self.latents(("rgb",), LatentCodec(vae))
            pipeline, progress = train_base(vae, store, folder.parent, budget_minutes=self.budget_minutes, device=self.device)
            facts: dict[str, Any] = {"scenes": f"train 0..{self.training_scenes - 1}"}
            *earlier, last = base_phases()
            for phase in earlier:
                run = progress[phase.name]
                facts[f"{phase.name}_phase"] = {"config": asdict(phase.config), **vars(run), "curve": run.curve[::4]}
            with replacing(folder) as unfinished:
                save_half(pipeline, unfinished)
                shutil.copy(self.root / "autoencoder" / "model" / PROVENANCE_FILE, unfinished / "vae")
                write_provenance(unfinished, "demo-base", last.config, progress[last.name], **facts)
        return StableDiffusionPipeline.from_pretrained(folder)

    def stage1(self) -> JointNetPipeline:
        """Joint network on the base: RGB frozen (Sec. 3.4)."""
        return self._stage("stage1", "demo-stage1", lambda: JointNetPipeline.from_base(self.base()))

    def stage2(self) -> JointNetPipeline:
        """Everything fine-tuned from stage 1's checkpoint (Sec. 3.4)."""
        return self._stage("stage2", "demo-stage2", self.stage1)

    def masked(self) -> JointNetPipeline:
        """Masked input, from stage 1's checkpoint (Sec. 4.1)."""
        return self._stage("masked", "demo-masked", self.stage1)

    def independent(self) -> JointNetPipeline:
        """Independent timesteps, from stage 1's checkpoint: the other way to condition."""
        return self._stage("independent", "demo-independent", self.stage1)

    def tasks(self) -> JointNetPipeline:
        """Both ways to condition, from stage 1's checkpoint."""
        return self._stage("tasks", "demo-tasks", self.stage1)

    def rgbdn_stage1(self) -> JointNetPipeline:
        """Stage 1 of three branches."""
        return self._stage("rgbdn-stage1", "demo-stage1", lambda: JointNetPipeline.from_base(self.base(), ("rgb", "depth", "normal")))

    def rgbdn(self) -> JointNetPipeline:
        """RGB, depth and normals, with both ways to condition."""
        return self._stage("rgbdn", "demo-tasks", self.rgbdn_stage1)

    def regressor(self) -> LatentRegressor:
        """One branch's network, trained for image -> depth only: the measure of ``predict``."""
        folder = self.root / "regressor"
        weights = folder / "regressor.safetensors"
        if not weights.exists():
            store = self.latents(("rgb", "depth"), self.stage1().to(self.device).codec)
            regressor, progress = train_latent_regressor(store, folder, budget_minutes=self.budget_minutes, device=self.device)
            write_provenance(folder, "demo-regressor", regressor_config(), progress, scenes=f"train 0..{self.training_scenes - 1}")
            with replacing_file(weights) as temporary:
                save_file(regressor.state_dict(), temporary)
        regressor = LatentRegressor()
        regressor.load_state_dict(load_file(weights))
        return regressor.eval()

    def judges(self) -> tuple[AttributeJudge, DepthRegressor]:
        """The judges of the measurement, trained on rendered scenes only."""
        return self._judge("attributes", AttributeJudge, train_attribute_judge), self.depth_judge()

    def depth_judge(self) -> DepthRegressor:
        """The judge that reads depth off an image."""
        return self._judge("depth", DepthRegressor, train_depth_regressor)

    def _judge(self, name: str, kind: Callable[[], Judge], train: Callable[..., tuple[Judge, Progress]]) -> Judge:
        folder = self.root / "judges" / name
        weights = folder / "judge.safetensors"
        if not weights.exists():
            judge, progress = train(self.scenes(), folder, budget_minutes=self.budget_minutes, device=self.device)
            write_provenance(folder, f"demo-judge-{name}", judge_config(), progress, scenes=f"train 0..{self.training_scenes - 1}")
            with replacing_file(weights) as temporary:
                save_file(judge.state_dict(), temporary)
        judge = kind()
        judge.load_state_dict(load_file(weights))
        return judge.eval()

    def latents(self, modalities: tuple[str, ...], codec: Codec) -> LatentStore:
        """The training scenes, encoded."""
        source = SceneSource(self.scenes())
        size = source.scenes.size
        known_by = {"data": source.contents(modalities)}
        store = latent_store(self._latents_of(modalities), len(source), modalities, [(size, size)], codec, known_by)
        encode_source(source, store, [(size, size)], None, codec, {}, BadSamples(0, len(source)))
        return store

    def _latents_of(self, modalities: tuple[str, ...]) -> Path:
        return self.root / "latents" / "-".join(modalities)

    def _stage(self, name: str, recipe: str, start: Callable[[], JointNetPipeline]) -> JointNetPipeline:
        folder = self.root / name / "model"
        if not (folder / PROVENANCE_FILE).exists():
            pipeline = start()
            source = SceneSource(self.scenes())
            of_stage = replace(get_recipe(recipe), modalities=pipeline.modalities, size=source.scenes.size)
            config = keeping_abilities(of_stage, pipeline.joint_unet)
            stages = [*stages_of(pipeline.name_or_path), recipe]
            pipeline.register_to_config(depth_near_m=NEAR_M, default_guidance=GUIDANCE)
            facts = {"recipe": recipe, "stages": stages, "data": source.contents(pipeline.modalities)}
            with open_run(folder.parent):
                claim(folder.parent, config, facts, budget_minutes=self.budget_minutes, commit=code_commit())
                objective = stage_objective(pipeline.to(self.device), config)
                latents = self._latents_of(pipeline.modalities)
                feed = stage_feed(pipeline, source, config, objective.rule, latents, known_by=facts, max_bad=0)
                options = RunOptions(num_workers=0 if torch.device(self.device).type == "cpu" else _NUM_READERS)
                progress = train_joint(
                    objective, feed, config, folder.parent, options=options, facts=facts, budget_minutes=self.budget_minutes
                )
                self._save(folder, pipeline, recipe, config, progress, stages)
        return JointNetPipeline.from_pretrained(folder)

    def _save(
        self, folder: Path, pipeline: JointNetPipeline, recipe: str, config: TrainConfig, progress: Progress, stages: list[str]
    ) -> None:
        with replacing(folder) as unfinished:
            save_half(pipeline, unfinished)
            write_json(unfinished / VOCABULARY_FILE, vocabulary())
            facts = {"base": "demo-base", "stages": stages, "scenes": f"train 0..{self.training_scenes - 1}"}
            write_provenance(unfinished, recipe, config, progress, **facts)
            write_card(unfinished)


INSTALLED = {"base": "demo-base", "stage2": "demo", "tasks": "demo-tasks", "rgbdn": "demo-rgbdn"}
"""Step -> the name its model is bundled under."""


def install(root: Path, steps: tuple[str, ...] = BUILD_STEPS, weights: Path = WEIGHTS) -> None:
    """Copy the finished models of some steps into the package, replacing what is there.

    Raises: ModelFolderError if none is finished.
    """
    finished = {s: name for s, name in INSTALLED.items() if s in steps and (root / s / "model" / PROVENANCE_FILE).exists()}
    if not finished:
        raise ModelFolderError(f"got no finished model of {', '.join(steps)} in {root}; the package holds those of {', '.join(INSTALLED)}")
    for step, name in finished.items():
        with replacing(weights / BUNDLED[name]) as unfinished:
            shutil.copytree(root / step / "model", unfinished, dirs_exist_ok=True)


def unpack(root: Path, besides: tuple[str, ...] = (), weights: Path = WEIGHTS) -> None:
    """Count the package's models as finished in the working folder, so that later steps start from them; ``besides`` stay as they are.

    Raises: RunFolderError if the folder holds another model of a step.
    """
    bundled = {"autoencoder": weights / BUNDLED["demo-base"] / "vae"}
    bundled |= {step: weights / BUNDLED[name] for step, name in INSTALLED.items()}
    for step, model in bundled.items():
        target = root / step / "model"
        if step in besides or not model.is_dir():
            continue
        if not target.exists():
            shutil.copytree(model, target)
        elif provenance_of(target) != provenance_of(model):
            raise RunFolderError(f"got {str(target)!r}, which is another model than the package's; pass another --work, or delete it")


def check_steps(steps: tuple[str, ...]) -> None:
    """Raises: UnknownNameError."""
    for name in steps:
        if name not in BUILD_STEPS:
            raise UnknownNameError(f"got build step {name!r}; expected some of {', '.join(BUILD_STEPS)}")


def build(
    root: Path, steps: tuple[str, ...] = BUILD_STEPS, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> None:
    """Run steps of the chain, each with what it needs. Raises: UnknownNameError."""
    check_steps(steps)
    chain = Chain(root, budget_minutes, device=device)
    for name in steps:
        is_done = (root / name / "model" / PROVENANCE_FILE).exists()
        print(f"== {name}{', finished earlier' if is_done else ''}", file=sys.stderr, flush=True)
        getattr(chain, name.replace("-", "_"))()
