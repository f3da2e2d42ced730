"""Argument types that say what they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite


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
    return int(height), int(width)


SEED = whole_number(0, 2**63 - 1)
"""What torch takes as a seed."""
