"""What arguments take: each parser refuses other values with a line that names what it got and what it expects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.suffixes import ARRAYS, PICTURES
from jointnet.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

LONGEST_SIDE = 65536
"""Pixels; what is larger is a slip."""


def whole_number(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of integers in [low, high]."""

    def parse(text: Any) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise typer.BadParameter(f"got {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a parser of finite numbers in [low, high]."""

    def parse(text: Any) -> float:
        try:
            value = float(text)
        except ValueError:
            value = None
        if value is None or not isfinite(value) or not low <= value <= high:
            raise typer.BadParameter(f"got {text!r}, expected a number from {low:g} to {high:g}")
        return value

    return parse


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return a parser of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"got {text!r}, expected one of {', '.join(names)}")
        return text

    return parse


def parse_text(text: str) -> str:
    """Parse a prompt, which names no file; bytes that the locale has no letters for are UTF-8."""
    is_path = text.lower().endswith((*PICTURES, *ARRAYS)) or os.sep in text
    if is_path and os.path.exists(text):
        raise typer.BadParameter(
            f"got the file {text!r}, expected words; pass a picture by --image, and the prompt of several maps by --prompt"
        )
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        raise typer.BadParameter(f"got {text!r}, which is not UTF-8") from error


def parse_path(text: str | Path) -> Path:
    """Parse a path that is not empty."""
    return Path(parse_name(text))


def parse_name(text: Any) -> Any:
    """Parse a name or path that is not empty."""
    if text == "":
        raise typer.BadParameter("got '', expected a name or a path; the current folder is '.'")
    return text


def parse_size(text: str) -> tuple[int, int]:
    """Parse HxW in pixels, as in 128x256."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"got {text!r}, expected HEIGHTxWIDTH in pixels, such as 128x128")
    if not all(1 <= int(side) <= LONGEST_SIDE for side in (height, width)):
        raise typer.BadParameter(f"got {text!r}, expected sides from 1 to {LONGEST_SIDE} pixels")
    return int(height), int(width)


def named_file(text: str) -> tuple[str, Path]:
    """Parse NAME=FILE, NAME being a modality."""
    name, equals, path = text.partition("=")
    if not (equals and path and name.isidentifier()):
        raise typer.BadParameter(f"got {text!r}, expected MODALITY=FILE, such as depth=depth.png")
    return name, Path(path)


def choice(*spellings: str, names: Sequence[str], panel: str, help_: str, default: str | None = None, metavar: str = "NAME") -> Any:
    """Return an option that takes one of some names, which the shell completes; ``default`` is the default in words."""
    return typer.Option(
        *spellings,
        parser=one_of(names),
        autocompletion=lambda: list(names),
        metavar=metavar,
        help=f"{help_}: {', '.join(names)}",
        show_default=default or True,
        rich_help_panel=panel,
    )


OUTPUT, MODEL, SAMPLING, PROMPT, MAPS = "Output", "Model", "Sampling", "Prompt", "Maps"
"""Panels that several commands have in their help."""

Seed = Annotated[
    int,
    typer.Option(
        "--seed", parser=whole_number(0, 2**63 - 1), metavar="N", help="the same seed gives the same files", rich_help_panel=SAMPLING
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ...", show_default="cuda if there is one, else cpu", rich_help_panel=MODEL
    ),
]
DEPTH_UNITS = ("disparity", "m", "mm", "kitti")
"""As in modalities/depth_units.py, which imports torch."""

DepthUnitName = Annotated[
    str,
    choice(
        "--depth-unit",
        names=DEPTH_UNITS,
        panel=MAPS,
        help_="what the numbers of depth files mean (docs/files-and-units.md)",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print what was written as JSON", rich_help_panel=OUTPUT)]
PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", parser=parse_text, metavar="PROMPT", help="the same as the argument PROMPT", rich_help_panel=PROMPT),
]


def one_prompt(argument: str | None, option: str | None) -> str:
    """Return the prompt that was passed as an argument or by --prompt; empty without one."""
    if argument is not None and option is not None:
        raise typer.BadParameter(f"got {argument!r} and {option!r}, expected it as the argument or by --prompt", param_hint="PROMPT")
    return argument or option or ""


def chosen_device(name: str | None) -> torch.device:
    """Return the device of that name. Raises: UnknownNameError if torch does not know it, or it cannot be used here."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnknownNameError(f"got --device {name}, which cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(name)
