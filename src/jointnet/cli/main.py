"""The command ``jointnet``: parses, runs, and turns errors into one line and exit code 2."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import typer.main

from jointnet import __version__
from jointnet.cli import (
    condition,
    convert,
    data,
    demo,
    edit,
    evaluate,
    generate,
    held_warnings,
    info,
    mesh,
    panorama,
    predict,
    refine,
    reproduce,
    train,
)
from jointnet.cli.command import BAD_INPUT, INTERRUPTED, epilog
from jointnet.cli.plugins import load_plugin
from jointnet.cli.streams import CLOSED_PIPE, drop_stdout, usable_streams
from jointnet.errors import InputFileError, JointNetWarning
from jointnet.training.stopping import tidy_termination

EXAMPLES = """
jointnet generate "a large red ball on a checkered floor" -o out
jointnet predict photo.png --ensemble 8 -o out
jointnet COMMAND --help
"""
logging.getLogger("PIL").addHandler(logging.NullHandler())  # errors are one line: what it logs of damaged pictures would be another
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""Base of what is raised for arguments that cannot be parsed; typer, which has a click of its own, names only this subclass."""

app = typer.Typer(rich_markup_mode="rich", epilog=epilog(EXAMPLES), context_settings={"help_option_names": ["--help", "-h"]})
for command in (generate, predict, condition, edit, refine, panorama, mesh, info, train, data, evaluate, reproduce, convert, demo):
    command.add_to(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"jointnet {__version__}")
        raise typer.Exit


@app.callback()
def _jointnet(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
    plugins: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="run a Python file that registers modalities of yours; it stands before the command"),
    ] = None,
) -> None:
    """Images and their geometry from one diffusion model."""
    for path in plugins or ():
        try:
            load_plugin(path)
        except InputFileError as error:
            raise typer.BadParameter(str(error), param_hint="--plugin") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 bad input, 130 interrupted, 141 if nobody reads what it prints."""
    with usable_streams():
        try:
            code = _run(arguments)
            sys.stdout.flush()
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code > 128:  # SIGTERM
                return stop.code
            drop_stdout()  # typer turns a broken pipe into this
            return CLOSED_PIPE
        except BrokenPipeError:
            drop_stdout()
            return CLOSED_PIPE
        except OSError as error:  # of stdout: commands name the files that they cannot read or write
            drop_stdout()
            print(f"jointnet: error: cannot write to stdout: {error.strerror}", file=sys.stderr)
            return BAD_INPUT
        return code


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        with tidy_termination(), warnings.catch_warnings():
            warnings.simplefilter("always", JointNetWarning)
            warnings.showwarning = _show_warning
            return command(None if arguments is None else list(arguments), prog_name="jointnet", standalone_mode=False) or 0
    except UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "jointnet"
        print(f"{path}: error: {' '.join(error.format_message().split())} (see {path} --help)", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        print("jointnet: interrupted", file=sys.stderr)
        return INTERRUPTED


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, JointNetWarning):
        held_warnings.show(f"warning: {message}")


if __name__ == "__main__":
    sys.exit(main())
