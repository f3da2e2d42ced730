"""jointnet train --dry-run: what a run would do, without training."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.cli.command import print_json
from jointnet.cli.validation import picture_of, sheet
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jointnet.data.labelers.labeler import Labeler
    from jointnet.data.sample import Source
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.training.config import RunOptions, TrainConfig

PICTURE = "dry-run.png"
_SHOWN = 8
_GIB = 2**30


def dry_run(
    pipeline: JointNetPipeline,
    source: Source,
    config: TrainConfig,
    run_dir: Path,
    *,
    labels: Mapping[str, Labeler],
    options: RunOptions,
    teacher: Path | None,
    as_json: bool,
) -> None:
    """Print the settings, the steps, an estimate of the memory and the captions of a first batch, whose maps are shown in PICTURE.

    Nothing else is written. Raises: DataFolderError if the batch has no good sample; OutputError.
    """
    from jointnet.data.order import BatchPlan, sample_generator
    from jointnet.errors import DataFolderError
    from jointnet.machine.processes import num_processes, rank
    from jointnet.training.feed import share_of
    from jointnet.training.stage import of_pipeline, open_teacher, stage_feed, stage_objective

    config = of_pipeline(config, pipeline)
    objective = stage_objective(pipeline, config, None if teacher is None else open_teacher(teacher, pipeline))
    read = replace(config, caches_latents=False, caches_text=False)  # nothing is encoded ahead
    feed = stage_feed(pipeline, source, read, objective.rule, run_dir, known_by={}, labels=labels, max_bad=1)
    share = share_of(config.optim.batch_size, options.micro_batch_size, rank(), num_processes())
    drawn = next(iter(share.parts(BatchPlan(feed.blocks, config.optim.batch_size, config.optim.seed, feed.buckets).batch(0))))[:_SHOWN]
    items = [feed.item(draw.row, sample_generator(config.optim.seed, draw.epoch, feed.id_of(draw.row))) for draw in drawn]
    good = [item for item in items if item.maps is not None]
    if not good:
        raise DataFolderError(f"got no sample that can be used among the first {len(items)}: {items[0].bad}")

    path = run_dir / PICTURE
    rows = []
    for item in good:
        maps = {name: value[None].to(pipeline.device) for name, value in (item.maps or {}).items()}
        maps |= {name: labeler(maps["rgb"]) for name, labeler in labels.items()}
        rows.append([picture_of(name, maps[name][0].cpu()) for name in pipeline.modalities])
    with naming_write_errors(path):
        run_dir.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            sheet(rows).save(temporary, format="PNG")

    samples = sum(feed.blocks)
    memory = _memory(pipeline, objective, config, options, feed.collate([good[0]]), share.micro_batch_size, feed)
    facts: dict[str, Any] = {
        "config": asdict(config),
        "samples": samples,
        "epochs": round(config.optim.steps * config.optim.batch_size / samples, 2),
        "processes": num_processes(),
        "micro_batch": share.micro_batch_size,
        "forwards_a_step": share.accumulation,
        "memory_gib": {name: round(value / _GIB, 2) for name, value in memory.items()},
        "captions": [item.caption for item in good],
        "bad": [str(item.bad) for item in items if item.bad is not None],
        "picture": str(path),
    }
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _memory(
    pipeline: JointNetPipeline, objective: Any, config: TrainConfig, options: RunOptions, batch: Any, micro_batch: int, feed: Any
) -> dict[str, int]:
    """Bytes of one process, of a micro-batch like the sample in ``batch``."""
    from jointnet.machine.processes import num_processes
    from jointnet.training.memory import bytes_of, estimate_memory

    prepared = feed.prepare(batch, pipeline.device)
    text = prepared.text if prepared.text is not None else feed.encode_text(prepared)
    rows = batch.draws.levels.t.new_zeros(micro_batch).long()
    others = sum(bytes_of(part) for name, part in pipeline.components.items() if name != "joint_unet" and hasattr(part, "parameters"))
    memory = estimate_memory(
        objective,
        others,
        prepared.x0[rows.to(prepared.x0.device)],
        text.take(rows.to(text.embeds.device)),
        prepared.draws.take(rows),
        config.optim,
        options,
        num_processes(),
    )
    return {**asdict(memory), "total": memory.total}


def _print(facts: dict[str, Any]) -> None:
    config = dict(facts["config"])
    for name, value in {**config.pop("optim"), **config}.items():
        print(f"{name} = {value}")
    batch = facts["config"]["optim"]["batch_size"]
    print(
        f"\n{facts['samples']} samples, {facts['epochs']:g} epochs; a step of {batch}: {facts['processes']} process(es) x "
        f"{facts['forwards_a_step']} forward(s) x {facts['micro_batch']} samples"
    )
    parts = ", ".join(f"{name} {value:g}" for name, value in facts["memory_gib"].items() if name != "total")
    print(f"memory of a process, estimated: {math.ceil(10 * facts['memory_gib']['total']) / 10:g} GiB ({parts})")
    for caption in facts["captions"]:
        print(f"caption: {caption}")
    for why in facts["bad"]:
        print(f"left out: {why}")
    print(facts["picture"])
