"""Trainings of a tiny joint model in several processes: torchrun ... -m tests.training.distributed_run RUN STEPS KIND DATA START.

KIND: "ddp" or "fsdp", with "-workers" for two loader workers, "-slow" for pauses, "-half" for micro-batches of half the share.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from jointnet.data.folder import FolderSource
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import stage1
from jointnet.training.config import RunOptions, TrainConfig
from jointnet.training.stage import train_stage
from jointnet.training.state import Progress


def config(steps: int) -> TrainConfig:
    """Stage 1 with all that is drawn: conditional timesteps, masks, random crops."""
    first = stage1()
    optim = replace(first.optim, steps=steps, batch_size=4, lr=1e-2, warmup_steps=0, precision="float32", ema_decay=0.9)
    drawn = {"has_masked_input": True, "has_independent_timesteps": True, "crop": "random", "caches_latents": False, "size": 32}
    return replace(first, optim=optim, **drawn)


def run(run_dir: Path, steps: int, kind: str, data: Path, start: Path) -> Path:
    """Train, or resume."""
    words = kind.split("-")
    options = RunOptions(
        is_sharded="fsdp" in words,
        num_workers=2 if "workers" in words else 0,
        micro_batch_size=1 if "half" in words else None,
        save_every_steps=3,
        log_every=1,
        validate_every=1 if "slow" in words else None,
        max_bad=0.5,
    )

    def pause(_progress: Progress) -> None:
        time.sleep(0.05)

    pipeline = JointNetPipeline.from_pretrained(start)
    return train_stage(
        pipeline,
        FolderSource(data),
        config(steps),
        run_dir,
        recipe="stage1",
        start=start,
        start_name="a start",
        options=options,
        validate=pause,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    place, number, kind, folder, model = sys.argv[1:]
    run(Path(place), int(number), kind, Path(folder), Path(model))
