"""One stage of a joint network in a run's folder: from a start and a data set to a saved model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jointnet.checkpoints.card import write_card
from jointnet.checkpoints.folder import contents_of_model, replacing, save_half
from jointnet.checkpoints.index import pipeline_class, provenance_of, stages_of
from jointnet.data.folder import FolderSource
from jointnet.data.samples import LatentSamples, encode_source
from jointnet.diffusion.schedule import forward_process
from jointnet.files.content_index import INDEX_FILE
from jointnet.training.config import TrainConfig
from jointnet.training.joint import keeping_abilities, train_joint
from jointnet.training.provenance import code_commit, holds_result, is_same_depth, write_provenance
from jointnet.training.run import LATENTS, MODEL, claim, open_run, print_finished
from jointnet.training.state import Progress


def train_stage(
    pipeline: Any,
    source: FolderSource,
    config: TrainConfig,
    run_dir: Path,
    *,
    recipe: str,
    start: Path,
    start_name: str,
    depth_near_m: float | None = None,
    budget_minutes: float | None = None,
) -> Path:
    """Train ``pipeline``, a JointNetPipeline, on a data folder; return the folder of its model, below ``run_dir``.

    Latents, and the index of the data's files, are kept in ``run_dir`` too.

    A run that was stopped resumes, see ``training.run`` for what may change meanwhile; one that has ended is left as it is.

    Args:
        start: folder that the pipeline comes from, a base or a joint model.
        start_name: the start as its user writes it, for the provenance.
        depth_near_m: the data's disparity is this over depth; None: as the source says or, if it does not, as of the start, if that was
            trained on the same depth maps.
    Raises: DataFolderError, RunFolderError, OutputError, ModelFolderError, DivergenceError; KeyboardInterrupt, SystemExit.
    """
    with open_run(run_dir):
        # 1. What the run is known by
        source = replace(source.with_depth_near(depth_near_m), index=run_dir / LATENTS / INDEX_FILE)
        depth_near_m = source.depth_near_m if depth_near_m is None else depth_near_m
        contents = source.contents(pipeline.modalities)
        earlier = provenance_of(start)
        if depth_near_m is not None or not is_same_depth(earlier, source.folder, contents):
            pipeline.register_to_config(depth_near_m=depth_near_m)
        config = keeping_abilities(replace(config, modalities=pipeline.modalities), pipeline.joint_unet)
        facts = {
            "recipe": recipe,
            "start": contents_of_model(start),
            "data": contents,
            "size": source.size,
            "depth_near_m": pipeline.config.depth_near_m,
        }
        places = {"start_folder": str(start), "data_folder": str(source.folder.resolve())}
        progress = claim(run_dir, config, facts, budget_minutes=budget_minutes, commit=code_commit(), **places)
        if progress.share(config.optim, budget_minutes) >= 1 and holds_result(run_dir / MODEL, progress):
            print_finished(run_dir, progress)
            return run_dir / MODEL

        # 2. Encode and train
        samples = encode_source(source, pipeline.modalities, pipeline.codec, run_dir / LATENTS, *pipeline.training_text())
        progress = _train(pipeline, samples, config, run_dir, facts, budget_minutes)

        # 3. Save
        is_base = pipeline_class(start) != type(pipeline).__name__
        origin = {
            "base": earlier.get("base") or (start_name if is_base else None),
            "stages": [*stages_of(start), recipe],
            "data": str(source.folder),
            "start": start_name,
            "contents": {name: facts[name] for name in ("data", "start")},
        }
        with replacing(run_dir / MODEL) as folder:
            save_half(pipeline, folder)
            write_provenance(folder, recipe, config, progress, **{name: value for name, value in origin.items() if value is not None})
            write_card(folder)
    return run_dir / MODEL


def _train(
    pipeline: Any, samples: LatentSamples, config: TrainConfig, run_dir: Path, facts: dict[str, Any], budget_minutes: float | None
) -> Progress:
    latent_size = (samples.latents.shape[-2], samples.latents.shape[-1])
    low_res = pipeline.image_noising_scheduler
    return train_joint(
        pipeline.joint_unet,
        samples,
        forward_process(pipeline.scheduler, latent_size),
        config,
        run_dir,
        facts=facts,
        low_res_process=None if low_res is None else forward_process(low_res),
        budget_minutes=budget_minutes,
    )
