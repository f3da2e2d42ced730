"""What the result.json beside a file says of it, if a command of ours wrote both."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from jointnet.files.result_facts import facts_beside

LENSES = ("pinhole", "cylindrical", "equirectangular")
"""The projections, by name."""

_LARGEST = {"fov_deg": 179.0, "span_deg": 360.0, "depth_near_m": 1e9}


def scene_facts(path: Path) -> dict[str, Any]:
    """Return what a mesh of a file needs to know and the file's result.json says: projection, fov_deg, span_deg, depth_near_m.

    Empty if no command of ours wrote the file; entries that cannot be are left out.
    """
    facts = facts_beside(path)
    found = {name: facts[name] for name, largest in _LARGEST.items() if _is_number(facts.get(name), largest)}
    return {**found, **({"projection": facts["projection"]} if facts.get("projection") in LENSES else {})}


def lens_beside(path: Path) -> dict[str, Any]:
    """Return how a picture of ours was projected, so that a mesh of its maps knows; empty if that is not known."""
    return {name: value for name, value in scene_facts(path).items() if name != "depth_near_m"}


def _is_number(value: Any, largest: float) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and isfinite(value) and 0 < value <= largest
