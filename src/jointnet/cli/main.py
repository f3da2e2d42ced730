"""The command ``jointnet``: parses, runs, and turns errors into one line and exit code 2."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from jointnet import __version__
from jointnet.cli import convert, demo, generate, info, mesh, panorama, tasks, train
from jointnet.errors import JointNetError, JointNetWarning

COMMANDS = (generate, tasks, panorama, mesh, info, train, convert, demo)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands; each module of this folder adds its own."""
    parser = OneLineParser(prog="jointnet", description="Images and their geometry from one diffusion model.")
    parser.add_argument("--version", action="version", version=f"jointnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 2 bad input, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", JointNetWarning)
            warnings.showwarning = _show_warning
            options.run(options)
    except JointNetError as error:
        print(f"jointnet {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jointnet {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, JointNetWarning):
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
