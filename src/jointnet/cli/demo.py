"""jointnet demo: rebuild and measure the bundled models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jointnet.cli.arguments import number


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser("demo", help="rebuild or measure the bundled models")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))

    build = actions.add_parser("build", help="train the demo models from nothing; resumes where it was stopped")
    build.add_argument("steps", nargs="*", metavar="STEP", help="scenes, autoencoder, base, stage1, stage2 (default: all)")
    build.add_argument("--work", type=Path, default=Path("runs/demo"), metavar="DIR", help="working folder (default: runs/demo)")
    build.add_argument("--budget", type=number(0.01, 100_000), metavar="MINUTES", help="training time of each step")
    build.set_defaults(run=run_build)


def run_build(options: argparse.Namespace) -> None:
    """Run steps of the chain. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder
    from jointnet.demo.build.chain import STEPS, build

    prepare_folder(options.work)
    build(options.work, tuple(options.steps) or STEPS, options.budget)
