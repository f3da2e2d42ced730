"""What the authors' own code returned for tiny networks, against what ours returns: python tests/release_samples.py DIR...

A DIR holds release/ (a checkpoint in the authors' form), base/ (its Stable Diffusion pipeline) and io.safetensors (inputs and outputs).
Every case whose ``.out`` key is there is run; one line each. Exits 1 if a relative error ||ours - theirs|| / ||theirs|| is above 1e-4, if
an ``.out`` key is unknown, if a case cannot be run, or if a DIR has none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

from jointnet.errors import JointNetError
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.conventions import PAPER, RELEASE
from jointnet.tasks.denoise import denoise
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.task import Task, all_asked
from jointnet.types import Conditioning, Text

LIMIT = 1e-4
STEPS, GUIDANCE = 10, 5.0
DENSE = "normal"
"""The samples' dense images are three channels in [-1, 1], which is what this modality takes as they are."""

Io = dict[str, Tensor]


def run_forward(pipeline: JointNetPipeline, io: Io) -> Tensor:
    embeds = torch.cat([io["negative_prompt_embeds"], io["prompt_embeds"]])
    return pipeline.joint_unet(io["forward.x"].unflatten(1, (2, -1)), io["forward.t"], embeds).sample.flatten(1, 2)


def run_task(pipeline: JointNetPipeline, io: Io, task: Task, latents: Tensor, tiling: Tiling | None = None) -> Tensor:
    conventions = replace(RELEASE, count_whole_steps=PAPER.count_whole_steps)  # the samples' panorama runs 4 of its 10 steps
    options = SamplingOptions(num_inference_steps=STEPS, latents=latents, conventions=conventions)
    conditioning = Conditioning(Text(io["prompt_embeds"]), Text(io["negative_prompt_embeds"]))
    return denoise(pipeline.joint_model(), task, pipeline.codec, conditioning, options, GUIDANCE, tiling).flatten(1, 2)


def size_of(pipeline: JointNetPipeline, latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2] * pipeline.codec.factor, latents.shape[-1] * pipeline.codec.factor


def maps_of(io: Io, case: str) -> dict[str, Tensor]:
    """The known maps of a case; depth may have one channel or three equal ones."""
    return {"rgb": (io[f"{case}.image"] + 1) / 2, DENSE: io[f"{case}.depth"].expand(-1, 3, -1, -1)}


def run_generate(pipeline: JointNetPipeline, io: Io) -> Tensor:
    latents = io["generate.latents"]
    return run_task(pipeline, io, all_asked(size_of(pipeline, latents)), latents)


def with_masks(rgb: float | None, dense: float | None) -> Callable[[JointNetPipeline, Io], Tensor]:
    """A case with the edit's maps: a mask of one value, or (None) the edit's own hole."""

    def run(pipeline: JointNetPipeline, io: Io) -> Tensor:
        hole = io["edit.mask"]
        masks = {name: hole if v is None else torch.full_like(hole, v) for name, v in {"rgb": rgb, DENSE: dense}.items()}
        asked = {name: mask >= 0.5 for name, mask in masks.items()}
        maps = maps_of(io, "edit")
        task = Task(size=size_of(pipeline, io["edit.latents"]), maps=maps, asked=asked)
        return run_task(pipeline, io, task, io["edit.latents"])

    return run


def run_panorama(pipeline: JointNetPipeline, io: Io, *, whole: bool = True) -> Tensor:
    latents = io["panorama.latents"]
    side = latents.shape[-2]
    tiling = Tiling(
        window=side,
        stride=side // 2,
        decay=side // 4 if whole else 0,
        wraps=True,
        whole_share=0.4 if whole else 0.0,
        has_random_offset=False,
    )
    return run_task(pipeline, io, all_asked(size_of(pipeline, latents)), latents, tiling=tiling)


def run_refine(pipeline: JointNetPipeline, io: Io) -> Tensor:
    noise = io["refine.noise"]
    maps = maps_of(io, "refine")
    asked = {name: torch.ones_like(value[:, :1], dtype=torch.bool) for name, value in maps.items()}
    task = Task(size=size_of(pipeline, noise), maps=maps, asked=asked, strength=0.4)
    tiling = Tiling(window=8, stride=4, decay=2, decays_everywhere=True, whole_share=0.0, has_random_offset=False)
    return run_task(pipeline, io, task, noise, tiling=tiling)


CASES: dict[str, Callable[[JointNetPipeline, Io], Tensor]] = {
    "forward": run_forward,
    "generate": run_generate,
    "edit": with_masks(None, None),
    "predict": with_masks(0.0, 1.0),
    "condition": with_masks(1.0, 0.0),
    "panorama": run_panorama,
    "panorama_plain": lambda pipeline, io: run_panorama(pipeline, io, whole=False),
    "refine": run_refine,
}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def errors_of(folder: Path, io: Io | None = None) -> Iterator[tuple[str, float | str]]:
    """Every case of a folder with its error, or with why there is none."""
    pipeline = JointNetPipeline.from_release(folder / "release", folder / "base", DENSE)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)  # the authors' scripts take this one whatever the base has
    pipeline.set_progress_bar_config(disable=True)
    io = load_file(folder / "io.safetensors") if io is None else io
    for name in sorted(key.removesuffix(".out") for key in io if key.endswith(".out")):
        if name not in CASES:
            yield name, "unknown case"
            continue
        try:
            yield name, relative_error(CASES[name](pipeline, io), io[f"{name}.out"])
        except (KeyError, RuntimeError, ValueError) as error:  # a case with missing or unfitting inputs; the others go on
            yield name, f"cannot be run: {error!r}"


def main(folders: list[str]) -> int:
    failed = not folders
    for folder in folders:
        ran = 0
        try:
            for name, error in errors_of(Path(folder)):
                print(f"{folder} {name}: " + (error if isinstance(error, str) else f"relative error {error:.2e}"))
                failed |= isinstance(error, str) or not error <= LIMIT
                ran += isinstance(error, float)
        except (JointNetError, OSError) as error:
            print(f"{folder}: cannot be opened: {error}", file=sys.stderr)
        if not ran:
            print(f"{folder}: no case ran", file=sys.stderr)
        failed |= not ran
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
