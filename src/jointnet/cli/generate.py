"""jointnet generate: text -> image and dense maps."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from jointnet.cli.arguments import size, whole_number
from jointnet.cli.sampling import add_sampling_arguments, describe_run, first_of, open_model, task_options


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("generate", help="make an image and its dense maps from a prompt")
    parser.add_argument("prompt", metavar="PROMPT")
    add_sampling_arguments(parser)
    parser.add_argument("--num", type=whole_number(1, 10_000), default=1, help="images to make, each in a numbered folder")
    parser.add_argument("--size", type=size, metavar="HxW", help="pixels (default: the model's own size)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    from jointnet.cli.output import write_set

    started = time.monotonic()
    pipeline = open_model(options, options.prompt)
    for index in range(options.num):
        seed = (options.seed + index) % 2**63
        begun = time.monotonic()
        maps = generate_maps(pipeline, options, seed)
        folder = options.output if options.num == 1 else options.output / f"{index + 1:0{len(str(options.num))}d}"
        result = {**describe_run(pipeline, options, options.prompt, seed), "seconds": round(time.monotonic() - begun, 2)}
        for path in write_set(folder, maps, result):
            print(path)
    print(f"done in {time.monotonic() - started:.1f} s", file=sys.stderr)


def generate_maps(pipeline: Any, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One image's maps, each (c, H, W)."""
    height, width = options.size or (None, None)
    sampling = task_options(pipeline, options, options.prompt, seed)
    return first_of(pipeline(options.prompt, height=height, width=width, **sampling))
