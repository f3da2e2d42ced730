"""jointnet generate: text -> image and dense maps."""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from jointnet.cli.arguments import SEED, number, size, whole_number
from jointnet.errors import UnknownWordsWarning


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("generate", help="make an image and its dense maps from a prompt")
    parser.add_argument("prompt", metavar="PROMPT")
    add_sampling_arguments(parser)
    parser.add_argument("--num", type=whole_number(1, 10_000), default=1, help="images to make, each in a numbered folder")
    parser.add_argument("--size", type=size, metavar="HxW", help="pixels (default: the model's own size)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.set_defaults(run=run)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Options every sampling command takes."""
    parser.add_argument("--model", default="demo", metavar="DIR", help="model folder, or demo, the bundled model (default)")
    parser.add_argument("--seed", type=SEED, default=0, help="the same seed gives the same files (default: 0)")
    parser.add_argument("--steps", type=whole_number(1, 1000), default=50, help="denoising steps (default: 50)")
    parser.add_argument("--guidance", type=number(0, 100), default=7.5, help="guidance scale, 1 is off (default: 7.5)")
    parser.add_argument("--guidance-rescale", type=number(0, 1), default=0.0, help="Lin et al.'s rescale (default: 0)")
    parser.add_argument("--negative", default="", metavar="PROMPT", help="what to steer away from")


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder, write_set
    from jointnet.load import load, vocabulary

    started = time.monotonic()
    prepare_folder(options.output)
    pipeline = load(options.model)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    warn_of_unknown_words(f"{options.prompt} {options.negative}", vocabulary(options.model))
    for index in range(options.num):
        seed = (options.seed + index) % 2**63
        begun = time.monotonic()
        maps = generate_maps(pipeline, options, seed)
        folder = options.output if options.num == 1 else options.output / f"{index + 1:0{len(str(options.num))}d}"
        result = {**describe_run(pipeline, options, seed), "seconds": round(time.monotonic() - begun, 2)}
        for path in write_set(folder, maps, result):
            print(path)
    print(f"done in {time.monotonic() - started:.1f} s", file=sys.stderr)


def generate_maps(pipeline: Any, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One image's maps, each (c, H, W)."""
    import torch

    height, width = options.size or (None, None)
    images, dense = pipeline(
        options.prompt,
        height=height,
        width=width,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        guidance_rescale=options.guidance_rescale,
        negative_prompt=options.negative,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        return_dict=False,
    )
    return {"rgb": images[0], **{name: maps[0] for name, maps in dense.items()}}


def describe_run(pipeline: Any, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What result.json says besides the time and the files."""
    from importlib.metadata import version

    from jointnet.pipelines.output import meanings

    return {
        "prompt": options.prompt,
        "negative_prompt": options.negative,
        "seed": seed,
        "model": str(options.model),
        "scheduler": type(pipeline.scheduler).__name__,
        "steps": options.steps,
        "guidance": options.guidance,
        "guidance_rescale": options.guidance_rescale,
        "meaning": meanings(pipeline.modalities),
        "depth_near_m": pipeline.config.depth_near_m,
        "versions": {name: version(name) for name in ("jointnet", "torch", "diffusers", "transformers")},
    }


def warn_of_unknown_words(prompt: str, vocabulary: dict[str, list[str]] | None) -> None:
    """Name the words a small model never saw, and what it knows."""
    if vocabulary is None:
        return
    known = {word for phrases in vocabulary.values() for phrase in phrases for word in phrase.lower().split()}
    unknown = list(dict.fromkeys(w for w in re.findall(r"[^\W_]+", prompt.lower()) if w not in known))
    if unknown:
        lists = "; ".join(f"{kind}: {', '.join(phrases)}" for kind, phrases in vocabulary.items())
        warnings.warn(f"this model never saw the words {', '.join(unknown)}; it knows {lists}", UnknownWordsWarning, stacklevel=2)
