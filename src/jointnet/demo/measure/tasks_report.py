"""The tasks' measurement as a page: the tables of docs/tasks.md are written here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jointnet.demo.measure.page import origin, percent, table, verdict, write_page

COMMAND = "jointnet demo evaluate-tasks"
MASKED = "masked input"


def write_tasks_report(figures: dict[str, Any], path: Path, notes: str = "") -> None:
    """Write all figures with their aims; ``notes`` is kept in a section of its own."""
    config = figures["config"]
    parts = [
        "# The tasks, measured",
        f"Every figure on this page was written by `{COMMAND}` ({origin(figures)}). "
        f"{config['num_scenes']} held-out test scenes; scene i has seed 1000 + i; {config['steps']} steps, networks in bfloat16 "
        "autocast.",
        _image_to_depth(figures),
        _normals(figures["image to normals"]),
        _depth_to_image(figures),
        _refinement(figures["refinement"], config),
        _known(figures["known pixels"]),
        notes,
    ]
    write_page(path, parts)


def _image_to_depth(figures: dict[str, Any]) -> str:
    rows = figures["image to depth"]
    limit = 1.2 * rows["regressor of one branch's size, on latents"]["abs_rel"]
    many = figures["config"]["ensemble"]
    value = rows[f"{MASKED}, ensemble of {many}"]["abs_rel"]
    return "\n\n".join(
        [
            "## Image to depth",
            "Predicted against exact disparity, aligned by scale and shift for each image; pixels nearer than 20 m.",
            table(["what", "AbsRel", "delta1"], [[name, f"{r['abs_rel']:.4f}", f"{r['delta1']:.4f}"] for name, r in rows.items()]),
            f"Aim: AbsRel at most 1.2 x the latent regressor's = {limit:.4f}. {MASKED}, ensemble of {many}: {value:.4f}, "
            f"{verdict(value <= limit)}.",
        ]
    )


def _normals(rows: dict[str, Any]) -> str:
    names = ["autoencoder's round trip of the exact normals", "predicted"]
    body = [[name, f"{rows[name]['mean_deg']:.2f}", percent(rows[name]["below_11_25"])] for name in names]
    return "\n\n".join(
        [
            "## Image to normals",
            "The model of three modalities; angles per image, then the mean over images.",
            table(["what", "mean angle in degrees", "below 11.25 degrees"], body),
            f"Its depth, predicted along: AbsRel {rows['its depth']['abs_rel']:.4f}.",
        ]
    )


def _depth_to_image(figures: dict[str, Any]) -> str:
    rows = figures["depth to image"]
    limit = 1.5 * rows["judge on autoencoded renders"]["abs_rel"]
    value = rows[MASKED]["abs_rel"]
    return "\n\n".join(
        [
            "## Depth to image",
            "The depth that a regressor reads off the made image, against the depth asked for; prompts are the scenes' captions.",
            table(["what", "AbsRel", "delta1"], [[name, f"{r['abs_rel']:.4f}", f"{r['delta1']:.4f}"] for name, r in rows.items()]),
            f"Aim: AbsRel at most 1.5 x the judge's error on autoencoded renders = {limit:.4f}. {MASKED}: {value:.4f}, "
            f"{verdict(value <= limit)}.",
        ]
    )


def _refinement(rows: dict[str, Any], config: dict[str, Any]) -> str:
    body = [[name, f"{r['abs_rel']:.4f}", f"{r['boundary_f1']:.4f}"] for name, r in rows.items()]
    gaps = []
    for name, key, sign in (("AbsRel", "abs_rel", -1), ("boundary F1", "boundary_f1", 1)):
        gap = sign * (rows["round trip"][key] - rows["degraded"][key])
        won = sign * (rows["refined"][key] - rows["degraded"][key])
        if gap <= 0:
            gaps.append(f"{name}: no gap, the round trip of the exact map is no better than the degraded map.")
        else:
            gaps.append(f"{name}: closes {percent(won / gap)} of the gap, {verdict(won >= 0.2 * gap)}.")
    return "\n\n".join(
        [
            "## Refinement",
            f"Exact depth, downsampled {config['downsampling']} x by nearest and brought back by nearest; the image is known; strength "
            f"{config['strength']:g}. The round trip is the exact map through the autoencoder: what no refinement here can beat.",
            table(["depth map", "AbsRel", "boundary F1"], body),
            "Aim: close at least 20 % of the gap between the degraded map and the round trip. " + " ".join(gaps),
        ]
    )


def _known(figures: dict[str, Any]) -> str:
    worst = figures["largest difference"]
    return "\n\n".join(
        [
            "## Known pixels",
            f"{figures['edits']} edits with a hole in image and depth: the largest difference of a known pixel is {worst:g} "
            f"(aim: 0), {verdict(worst == 0)}.",
        ]
    )
