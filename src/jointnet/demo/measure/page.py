"""Parts of the pages of figures, and the files that they are written to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from jointnet.files.atomic import write_json, write_text
from jointnet.files.json_files import read_named_values

GRID_FILE = "demo-samples.png"
"""The pictures beside the page of ``jointnet demo evaluate``."""


def written_by(command: str) -> str:
    """Return how a page's first paragraph begins, by which it is known as the command's."""
    return f"The tables and their lines were written by `{command}`"


def is_page(path: Path, command: str) -> bool:
    """Return True for a page that a command wrote. Raises: OSError."""
    if path.is_symlink() or not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n", 3)
    return lines[0].startswith("# ") and lines[1:2] == [""] and lines[2:3] != [] and lines[2].startswith(written_by(command))


def are_figures(path: Path, *, by_task: bool) -> bool:
    """Return True for a file that ``save_figures`` wrote, of one measurement or of several by task. Raises: OSError."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        figures = read_named_values(path)
    except (ValueError, RecursionError):
        return False
    parts = list(figures.values()) if by_task else [figures]
    return bool(parts) and all(isinstance(part, dict) and {"config", "commit", "machine"} <= part.keys() for part in parts)


def is_grid(path: Path, page: Path, command: str) -> bool:
    """Return True for pictures that a command wrote: they say so, or a page of it beside them shows them. Raises: OSError."""
    if path.is_symlink() or not path.is_file():
        return False
    if is_page(page, command) and f"]({path.name})" in page.read_text(encoding="utf-8", errors="replace"):
        return True
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == command
    except (UnidentifiedImageError, ValueError, SyntaxError):
        return False


def write_page(path: Path, parts: Sequence[str]) -> None:
    """Write the parts that are not empty, a blank line between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def save_figures(figures: dict[str, Any], path: Path) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, figures)


def load_figures(path: Path) -> dict[str, Any]:
    """Return the figures of an earlier measurement; none if there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def origin(figures: dict[str, Any]) -> str:
    """Return the commit (and whether the working copy had changes), machine and, if networks ran, precision of a measurement, in a line."""
    digits, *changed = figures["commit"].split("+")
    machine = figures["machine"]
    precision = f", networks in {figures['precision']}" if "precision" in figures else ""
    return (
        f"commit `{'+'.join([digits[:12], *changed])}`, {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"diffusers {machine['diffusers']}{precision}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(met: bool) -> str:
    """Return the cell of a table that says if an aim was met."""
    return "met" if met else "**missed**"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return "-" if share is None else f"{100 * share:.1f} %"
