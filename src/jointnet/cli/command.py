"""How a function becomes a command: groups of arguments that reach it as one value, examples in its help, errors in one line."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from jointnet.cli.arguments import parse_path
from jointnet.cli.held_warnings import holding
from jointnet.errors import JointNetError

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes."""


@dataclass(frozen=True)
class Group:
    """Arguments that a command gets as one value: ``build`` is called with them by name."""

    parameters: Sequence[inspect.Parameter]
    build: Callable[..., Any]

    @classmethod
    def of(cls, kind: type) -> Group:
        """Return the fields of a dataclass, each annotated as a parameter of a typer command."""
        hints = get_type_hints(kind, include_extras=True)
        return cls([keyword(f.name, hints[f.name], None if f.default is MISSING else (f.default,)) for f in fields(kind)], kind)


def keyword(name: str, annotation: Any, default: tuple[Any] | None = None) -> inspect.Parameter:
    """Return a parameter; without a default it is required."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=inspect.Parameter.empty if default is None else default[0]
    )


def takes(**groups: Group) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Give a function the arguments of groups in the place of its parameters of these names."""

    def spread(function: Callable[..., int | None]) -> Callable[..., int | None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in groups]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters += [p for group in groups.values() for p in group.parameters]

        @wraps(function)
        def command(**values: Any) -> int | None:
            built = {name: group.build(**{p.name: values.pop(p.name) for p in group.parameters}) for name, group in groups.items()}
            return function(**values, **built)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] - typer reads it
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return spread


def add_command(
    app: typer.Typer,
    path: str,
    function: Callable[..., int | None],
    *,
    examples: str,
    panel: str | None = None,
    holds_warnings: bool = False,
) -> None:
    """Add a command.

    Args:
        path: what is typed ("demo scene").
        function: its docstring is the command's help.
        examples: one a line.
        holds_warnings: an error before the work takes the place of the warnings that came before it.
    """

    @wraps(function)
    def run(**values: Any) -> None:
        try:
            with holding() if holds_warnings else nullcontext():
                code = function(**values)
        except JointNetError as error:
            report(path, str(error))
            code = BAD_INPUT
        except KeyboardInterrupt:
            print(f"jointnet {path}: interrupted", file=sys.stderr)
            code = INTERRUPTED
        if code:
            raise typer.Exit(code)

    signature = inspect.signature(function, eval_str=True)
    parameters = [p.replace(annotation=_refusing_empty_paths(p.annotation)) for p in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] - typer reads it
    app.command(path.split()[-1], epilog=epilog(examples), rich_help_panel=panel)(run)


def _refusing_empty_paths(annotation: Any) -> Any:
    """Return a parameter's annotation; if it takes paths, with a parser that refuses an empty one, which is the current folder to Path."""
    if get_origin(annotation) is not Annotated or Path not in _parts_of(get_args(annotation)[0]):
        return annotation
    kind, info = get_args(annotation)
    info = copy(info)
    info.parser = info.parser or parse_path
    return Annotated[kind, info]


def _parts_of(kind: Any) -> set[Any]:
    """Return the types that a type such as list[Path] | None is built of."""
    return {kind}.union(*map(_parts_of, get_args(kind)))


def epilog(examples: str) -> str:
    """Return the examples of a help page from a text with one a line."""
    return "\n\n".join(["Examples:", *(line.strip() for line in examples.strip().splitlines())])


def report(path: str, message: str) -> None:
    """Print an error of a command in one line."""
    print(f"jointnet {path}: error: {' '.join(message.split())}", file=sys.stderr)


def print_written(paths: Sequence[Path], output: Path, *, as_json: bool) -> None:
    """Print the files that a command wrote, or as JSON the output and the files."""
    if as_json:
        print_json(facts_of_written(paths, output))
        return
    for path in paths:
        print(path, flush=True)


def facts_of_written(paths: Sequence[Path], output: Path) -> dict[str, Any]:
    """Return what --json prints for a command's output."""
    return {"output": str(output), "files": [str(path) for path in paths]}


def print_json(value: Any) -> None:
    """Print JSON on stdout, in ASCII: letters that a terminal lacks, and bytes of file names that are no text, are JSON's escapes."""
    print(json.dumps(value, indent=2))
