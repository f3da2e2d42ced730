"""The page of a reproduction on a public base: the paper's numbers beside one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnet.demo.measure.page import origin, table, write_page

PAPERS = {
    "base": {"FID": 16.15, "IS": 39.85, "CLIP score": 26.17},
    "train direct-copy": {"FID": 14.15, "IS": 37.08, "CLIP score": 25.74},
    "train jointnet": {"FID": 14.38, "IS": 38.33, "CLIP score": 25.71},
    "train jointnet-normal": {"FID": 15.62, "IS": 39.71, "CLIP score": 25.87},
}
"""Table 1, on 30,000 prompts of COCO; which initialisation Direct Extend had is not said."""


def write_public(figures: Mapping[str, Any], path: Path, base: str) -> None:
    """Write the page of the parts that are done."""
    parts, budget = figures["parts"], figures["budget"]
    made = {name: part["generated"] for name, part in parts.items() if "generated" in part}
    columns = [key for key in dict.fromkeys(key for of in made.values() for key in of) if key != "KID"]
    rows = []
    for name, of in made.items():
        theirs = PAPERS.get(name.rsplit(" ", 1)[0] if name.startswith("train") else name, {})
        rows.append([name, *(f"{of[key]:.3f}" + (f" ({theirs[key]})" if key in theirs else "") if key in of else "-" for key in columns)])
    depth = [
        [name, f"{found['abs_rel']:.4f}", f"{found['rmse_disparity']:.4f}"]
        for name, part in parts.items()
        for found in (part.get("predicted") or part.get("predicted by blending") or {},)
        if found
    ]
    missing = [name for name in figures["names"] if name not in parts]
    write_page(
        path,
        [
            f"# The paper, reproduced on {base}",
            f"Written by `jointnet reproduce`. {budget['steps']} steps of {budget['batch']} samples each, {budget['prompts']} prompts; "
            "the paper's figures in brackets.",
            f"**Not yet run:** {', '.join(missing)}." if missing else "",
            "## Generation (Table 1)\n\n" + table(["network", *columns], rows) if rows else "",
            "## Image to depth (Table 6: AbsRel 0.1203, RMSE 0.0754)\n\n" + table(["network", "AbsRel", "RMSE (disparity)"], depth)
            if depth
            else "",
            "\n".join(f"- {name}: {origin(dict(part))}" for name, part in parts.items()),
        ],
    )
