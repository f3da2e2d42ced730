"""One stage of a joint network in a run's folder: from a start and a data set to a saved model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, LCMScheduler

from jointnet.checkpoints.card import write_card
from jointnet.checkpoints.folder import contents_of_model, replacing, save_half
from jointnet.checkpoints.index import pipeline_class, provenance_of, stages_of
from jointnet.checkpoints.weight_files import variant_of
from jointnet.codecs.codec import Codec
from jointnet.data.bad_samples import BadSamples
from jointnet.data.folder import FolderSource
from jointnet.data.framing import bucket_sizes, choose_buckets
from jointnet.data.labelers.labeler import Labeler
from jointnet.data.sample import Source
from jointnet.diffusion.schedule import forward_process
from jointnet.errors import DataFolderError, UnsupportedBaseError
from jointnet.files.fingerprints import of_networks
from jointnet.files.json_files import read_named_values
from jointnet.machine.origin import code_commit
from jointnet.machine.processes import is_main_process, num_processes, on_main, process_device
from jointnet.models.joint_unet import JointUNet
from jointnet.training.config import RunOptions, TrainConfig
from jointnet.training.consistency import ConsistencyObjective
from jointnet.training.draws import DrawRule
from jointnet.training.encode import encode_source, latent_store
from jointnet.training.joint import joint_objective, keeping_abilities, prepare_network, train_joint
from jointnet.training.joint_feed import JointFeed, sizes_of_rows
from jointnet.training.objective import JointObjective
from jointnet.training.one_step import OneStepObjective, three_channels
from jointnet.training.parallel import join_processes, whole
from jointnet.training.provenance import holds_result, is_same_depth, write_provenance
from jointnet.training.run import INDEX_FILE, LATENTS, MODEL, claim, open_run, print_finished
from jointnet.training.state import Progress

FEW_STEPS = 4
"""Steps in which a distilled model draws where nobody says how many."""


def train_stage(
    pipeline: Any,
    source: Source,
    config: TrainConfig,
    run_dir: Path,
    *,
    recipe: str,
    start: Path,
    start_name: str,
    labels: Mapping[str, Labeler] | None = None,
    options: RunOptions | None = None,
    depth_near_m: float | None = None,
    budget_minutes: float | None = None,
    teacher: Path | None = None,
    validate: Callable[[Progress], None] | None = None,
) -> Path:
    """Train ``pipeline``, a JointNetPipeline, on a source; return the folder of its model, below ``run_dir``.

    Latents, and the index of the data's files, are kept in ``run_dir`` too.

    A run that was stopped resumes, see ``training.run`` for what may change meanwhile; one that has ended is left as it is.

    Args:
        start: folder that the pipeline comes from, a base or a joint model.
        start_name: the start as its user writes it, for the provenance.
        labels: labelers of modalities whose maps the source has not.
        depth_near_m: the data's disparity is this over depth; None: as the source says or, if it does not, as of the start, if that was
            trained on the same depth maps.
        teacher: folder of a trained model with the same modalities, whose predictions are learned instead of the noise.
        validate: see ``fit``.
    Raises: UnsupportedBaseError for a teacher of another kind; DataFolderError, RunFolderError, OutputError, ModelFolderError,
        DivergenceError; KeyboardInterrupt, SystemExit.
    """
    labels, options = dict(labels or {}), options or RunOptions()
    device = process_device(pipeline.device)
    join_processes(device)
    pipeline.to(device)
    with open_run(run_dir) if is_main_process() else nullcontext():
        # 1. What the run is known by
        if isinstance(source, FolderSource):
            source = replace(source.with_depth_near(depth_near_m), index=run_dir / LATENTS / INDEX_FILE)
        depth_near_m = source.depth_near_m if depth_near_m is None else depth_near_m
        read = [name for name in pipeline.modalities if name not in labels]
        contents = on_main(lambda: source.contents(read))
        earlier = provenance_of(start)
        if depth_near_m is not None or not is_same_depth(earlier, _place_of(source), contents):
            pipeline.register_to_config(depth_near_m=depth_near_m)
        config = of_pipeline(config, pipeline)
        facts = {
            "recipe": recipe,
            "start": on_main(lambda: contents_of_model(start)),
            "data": contents,
            "depth_near_m": pipeline.config.depth_near_m,
            **({"labels": {name: labeler.fingerprint() for name, labeler in labels.items()}} if labels else {}),
            **({} if teacher is None else {"teacher": on_main(lambda: contents_of_model(teacher))}),
        }
        places = {"start_folder": str(start), "data_folder": str(_place_of(source).resolve())}
        progress = on_main(lambda: claim(run_dir, config, facts, budget_minutes=budget_minutes, commit=code_commit(), **places))
        if progress.share(config.optim, budget_minutes) >= 1 and holds_result(run_dir / MODEL, progress):
            if is_main_process():
                print_finished(run_dir, progress)
            return run_dir / MODEL

        # 2. Encode and train
        if pipeline.config.default_steps is not None:
            raise UnsupportedBaseError(
                f"got a model that was distilled to {pipeline.config.default_steps} steps; start from the one that it was distilled from"
            )
        objective = stage_objective(pipeline, config, None if teacher is None else open_teacher(teacher, pipeline))
        if config.teacher_steps is not None:
            draws_in_few_steps(pipeline, config.teacher_steps)
        elif config.predicts_in_one_step:
            if labels:
                raise UnsupportedBaseError(
                    f"got labels for {', '.join(labels)}; one step is trained on maps that the data have: build them first"
                )
            pipeline.register_modules(scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing"))
            pipeline.register_to_config(default_guidance=1.0, default_steps=1)
        feed = stage_feed(
            pipeline,
            source,
            config,
            objective.rule,
            run_dir / LATENTS,
            labels=labels,
            known_by=facts,
            max_bad=options.max_bad,
            shown=pipeline.modalities[1:] if config.predicts_in_one_step else (),
        )
        text_encoders = _trained_text_encoders(pipeline) if config.trains_text_encoder else ()
        progress = train_joint(
            objective,
            feed,
            config,
            run_dir,
            options=options,
            facts=facts,
            text_encoders=text_encoders,
            budget_minutes=budget_minutes,
            validate=validate,
        )
        if options.is_sharded and num_processes() > 1:
            _gather(pipeline)

        # 3. Save
        is_base = pipeline_class(start) != type(pipeline).__name__
        origin = {
            "base": earlier.get("base") or (start_name if is_base else None),
            "stages": [*stages_of(start), recipe],
            "data": str(_place_of(source)),
            "start": start_name,
            "contents": {name: facts[name] for name in ("data", "start")},
        }

        def save() -> None:
            with replacing(run_dir / MODEL) as folder:
                save_half(pipeline, folder)
                write_provenance(folder, recipe, config, progress, **{name: value for name, value in origin.items() if value is not None})
                write_card(folder)

        on_main(save)
    return run_dir / MODEL


_OF_A_PREDICTION = ("prediction_type", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "rescale_betas_zero_snr")
"""What a scheduler's config says of the prediction of a network."""


def open_teacher(folder: Path, pipeline: Any) -> JointUNet:
    """Open a trained model's network on a pipeline's device. Raises: UnsupportedBaseError if it predicts another quantity."""
    theirs = read_named_values(folder / "scheduler" / "scheduler_config.json")
    for name in _OF_A_PREDICTION:
        ours = pipeline.scheduler.config.get(name)
        if name in theirs and theirs[name] != ours:
            raise UnsupportedBaseError(f"got a teacher with {name} = {theirs[name]} in its scheduler; expected {ours}, as of this base")
    return JointUNet.from_pretrained(folder / "joint_unet", variant=variant_of(folder)).to(pipeline.device)


def of_pipeline(config: TrainConfig, pipeline: Any) -> TrainConfig:
    """Return a stage with the modalities of a pipeline, its size where the recipe has none, and the abilities that its network has."""
    branch = pipeline.joint_unet.config.branch
    resolved = replace(config, modalities=pipeline.modalities, branch=branch, size=config.size or pipeline.default_size)
    return keeping_abilities(resolved, pipeline.joint_unet)


def stage_objective(pipeline: Any, config: TrainConfig, teacher: JointUNet | None = None) -> JointObjective:
    """Prepare a pipeline's network for a stage and return its objective. Raises: as ``joint_objective``."""
    side = (config.size or pipeline.default_size) // pipeline.codec.factor
    low_res, network = pipeline.image_noising_scheduler, pipeline.joint_unet
    process = forward_process(pipeline.scheduler, (side, side))
    if config.predicts_in_one_step:
        if teacher is not None or pipeline.vae is None:
            raise UnsupportedBaseError("got a teacher, or a base without an autoencoder; one step learns from maps, behind a decoder")
        prepare_network(network, config)
        pipeline.vae.requires_grad_(False)
        codec = pipeline.joint_model().codec(read=three_channels)
        words = pipeline.training_text()[1]
        return OneStepObjective(network, process, codec=codec, unconditional=words, noise_offset=config.noise_offset)
    if config.teacher_steps is None:
        return joint_objective(network, process, config, None if low_res is None else forward_process(low_res), teacher)
    taught = copy.deepcopy(network) if teacher is None else teacher
    prepare_network(network, config)
    return ConsistencyObjective(
        network,
        process,
        teacher=taught,
        steps=config.teacher_steps,
        guidance=pipeline.config.default_guidance if config.teacher_guidance is None else config.teacher_guidance,
        unconditional=pipeline.training_text()[1],
        noise_offset=config.noise_offset,
    )


def draws_in_few_steps(pipeline: Any, teacher_steps: int) -> None:
    """Let a pipeline whose network is distilled draw as it was taught: a few steps of a consistency solver, without guidance."""
    scheduler = LCMScheduler.from_config(pipeline.scheduler.config, original_inference_steps=teacher_steps)
    pipeline.register_modules(scheduler=scheduler)
    pipeline.register_to_config(default_guidance=1.0, default_steps=FEW_STEPS)


def stage_feed(
    pipeline: Any,
    source: Source,
    config: TrainConfig,
    rule: DrawRule,
    folder: Path,
    *,
    known_by: Mapping[str, Any],
    labels: Mapping[str, Labeler] | None = None,
    max_bad: float = 0.01,
    shown: Sequence[str] = (),
    codec: Codec | None = None,
) -> JointFeed:
    """Return what a stage is trained on; where nothing of a sample's picture is random, samples are encoded into ``folder`` first.

    Args:
        known_by: what the encoded samples depend on besides the codec and the size: contents of the data, labelers.
        shown: see ``JointFeed``.
        codec: what maps are encoded by; None: the pipeline's.
    Raises: DataFolderError if too many samples are bad; OutputError.
    """
    labels, modalities = dict(labels or {}), pipeline.modalities
    encodes: Codec = pipeline.codec if codec is None else codec
    size = config.size or pipeline.default_size
    encoder, unconditional = pipeline.training_text()
    sizes, buckets, size_of = [(size, size)], None, None
    if config.has_aspect_buckets:
        sizes = bucket_sizes(size, pipeline.size_multiple)
        originals = on_main(lambda: _original_sizes(source))
        rows = choose_buckets(originals, sizes, config.optim.batch_size)
        sizes, buckets = [one for one, of in zip(sizes, rows, strict=True) if len(of)], [of for of in rows if len(of)]
        size_of = sizes_of_rows(buckets, len(source))
    bad_samples = BadSamples(max_bad, sys.maxsize)  # read one by one, a run has no end that is known
    store = None
    if config.caches_latents and config.crop == "centre":
        texts = {"texts": _fingerprint_of_text_encoders(pipeline)} if config.caches_text else {}
        store = latent_store(folder, len(source), modalities, sizes, encodes, {**known_by, **texts})
        read_captions = encoder if config.caches_text else None
        encode_source(source, store, sizes, size_of, encodes, labels, BadSamples(max_bad, len(source)), read_captions)
        on_main(lambda: None)  # all have written their share
    return JointFeed(
        source,
        modalities,
        config,
        rule,
        encodes,
        encoder,
        unconditional,
        (size, size),
        labels=labels,
        store=store,
        buckets=buckets,
        sizes=sizes,
        bad_samples=bad_samples,
        shown=shown,
    )


def _original_sizes(source: Source) -> np.ndarray:
    """Heights and widths of all pictures (N, 2); (1, 1) of those that cannot be read."""
    size_of = getattr(source, "size_of", None)
    if size_of is None:
        raise DataFolderError(
            f"got {type(source).__name__}, which does not know its pictures' sizes; train on a folder or shards, or without aspect buckets"
        )
    sizes = np.ones((len(source), 2), np.int32)
    for row in range(len(source)):
        sizes[row] = size_of(row) or (1, 1)
    return sizes


def _place_of(source: Source) -> Path:
    return Path(getattr(source, "folder", "."))


def _trained_text_encoders(pipeline: Any) -> Sequence[torch.nn.Module]:
    """The base's text encoders, in float32, with gradients."""
    encoders = [e for e in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)) if e is not None]
    for encoder in encoders:
        encoder.float().requires_grad_(True)
    return encoders


def _fingerprint_of_text_encoders(pipeline: Any) -> str:
    """Return 16 hex digits that change with what captions are encoded to."""
    return of_networks({name: part for name, part in pipeline.components.items() if name.startswith("text_encoder")})


def _gather(pipeline: Any) -> None:
    """Put a whole network in the place of a sharded one, in the main process."""
    sharded: JointUNet = pipeline.joint_unet
    state = {name: whole(value).cpu() for name, value in sharded.state_dict().items()}
    if is_main_process():
        network = type(sharded).from_config(sharded.config)
        network.load_state_dict(state)
        pipeline.register_modules(joint_unet=network)
