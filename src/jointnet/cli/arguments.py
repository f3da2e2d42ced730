"""Argument types that say what they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING

from jointnet.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

LONGEST_SIDE = 65536
"""Pixels; what is larger is a slip."""


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An integer in [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A finite number in [low, high]."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = None
        if value is None or not isfinite(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from {low:g} to {high:g}")
        return value

    return parse


def size(text: str) -> tuple[int, int]:
    """HxW in pixels, as in 128x256."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected HEIGHTxWIDTH in pixels, such as 128x128")
    if not all(1 <= int(side) <= LONGEST_SIDE for side in (height, width)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected sides from 1 to {LONGEST_SIDE} pixels")
    return int(height), int(width)


SEED = whole_number(0, 2**63 - 1)
"""What torch takes as a seed."""


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Where the networks run."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: cuda if there is one, else cpu)")


def chosen_device(name: str | None) -> torch.device:
    """The device of that name. Raises: UnknownNameError if torch does not know it, or it cannot be used here."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnknownNameError(f"got --device {name}, which cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(name)
