"""Parts of the pages of figures, and the files that they are written to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnet.files.atomic import write_json, write_text


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
