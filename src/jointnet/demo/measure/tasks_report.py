"""The tasks' measurement as a page: the tables of docs/tasks.md are written here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jointnet.demo.measure.page import origin, percent, table, verdict, write_page, written_by
from jointnet.demo.measure.run import FIRST_SEED
from jointnet.demo.measure.tasks import BOTH, LATENT_REGRESSOR, refined_at

COMMAND = "jointnet demo evaluate-tasks"


def write_tasks_report(figures: dict[str, Any], path: Path, notes: str = "") -> None:
    """Write the sections that were measured, with their aims; ``notes`` is kept in a section of its own."""
    head = (
        f"{written_by(COMMAND)}; each section says with which scenes, steps, commit and machine. "
        f"Held-out test scene i has seed {FIRST_SEED} + i."
    )
    sections = [_section(section, figures[name]) for name, section in SECTIONS.items() if name in figures]
    write_page(path, ["# The tasks, measured", head, *sections, notes])


def _section(section: Callable[[dict[str, Any], dict[str, Any]], str], measured: dict[str, Any]) -> str:
    config = measured["config"]
    where = f"*{config['num_scenes']} scenes, {config['steps']} steps, {origin(measured)}.*"
    return f"{section(measured['rows'], config)}\n\n{where}"


def _depth_table(rows: dict[str, Any]) -> str:
    body = [[name, f"{r['abs_rel']:.4f}", f"{r['delta1']:.4f}", str(r.get("samples_seen", "-"))] for name, r in rows.items()]
    return table(["what", "AbsRel", "delta1", "samples seen in its last stage"], body)


def _image_to_depth(rows: dict[str, Any], config: dict[str, Any]) -> str:
    limit = 1.2 * rows[LATENT_REGRESSOR]["abs_rel"]
    values = {count: rows[f"{BOTH}, ensemble of {count}"]["abs_rel"] for count in (1, config["ensemble"])}
    judged = "; ".join(f"ensemble of {count}: {value:.4f}, {verdict(value <= limit)}" for count, value in values.items())
    return "\n\n".join(
        [
            "## Image to depth",
            "Predicted against exact disparity, aligned by scale and shift for each image; pixels nearer than 20 m. "
            "Both: what is wholly known is shown clean, as with independent timesteps, and the network also reads masks; the package holds "
            "this model.",
            _depth_table(rows),
            f"Aim: AbsRel at most 1.2 x the latent regressor's = {limit:.4f}. {BOTH}, {judged}.",
        ]
    )


def _normals(rows: dict[str, Any], _: dict[str, Any]) -> str:
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


def _depth_to_image(rows: dict[str, Any], _: dict[str, Any]) -> str:
    limit = 1.5 * rows["judge on autoencoded renders"]["abs_rel"]
    value = rows[BOTH]["abs_rel"]
    return "\n\n".join(
        [
            "## Depth to image",
            "The depth that a regressor reads off the made image, against the depth asked for; prompts are the scenes' captions.",
            _depth_table(rows),
            f"Aim: AbsRel at most 1.5 x the judge's error on autoencoded renders = {limit:.4f}. {BOTH}: {value:.4f}, "
            f"{verdict(value <= limit)}.",
        ]
    )


def _refinement(rows: dict[str, Any], config: dict[str, Any]) -> str:
    body = [[name, f"{r['abs_rel']:.4f}", f"{r['boundary_f1']:.4f}"] for name, r in rows.items()]
    default = config["strengths"][0]
    refined, gaps = rows[refined_at(default)], []
    for name, key, sign in (("AbsRel", "abs_rel", -1), ("boundary F1", "boundary_f1", 1)):
        gap = sign * (rows["round trip"][key] - rows["degraded"][key])
        won = sign * (refined[key] - rows["degraded"][key])
        if gap <= 0:
            gaps.append(f"{name}: no gap, the round trip of the exact map is no better than the degraded map.")
        else:
            gaps.append(f"{name}: closes {percent(won / gap)} of the gap, {verdict(won >= 0.2 * gap)}.")
    return "\n\n".join(
        [
            "## Refinement",
            f"Exact depth, downsampled {config['downsampling']} x by nearest and brought back by nearest; the image is known. "
            "The round trip is the exact map through the autoencoder: what no refinement here can beat. The autoencoder smooths a degraded "
            "map by itself; what refinement adds to that is the difference to the second row.",
            table(["depth map", "AbsRel", "boundary F1"], body),
            "Aim: close at least 20 % of the gap between the degraded map and the round trip. "
            f"At strength {default:g}, the default: {' '.join(gaps)}",
        ]
    )


def _known(rows: dict[str, Any], config: dict[str, Any]) -> str:
    worst = rows["largest difference"]
    return "\n\n".join(
        [
            "## Known pixels",
            f"Edits of scenes of {config['edit_size']} px with a hole in image and depth: the largest difference of a known pixel is "
            f"{worst:g} (aim: 0), {verdict(worst == 0)}.",
        ]
    )


SECTIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "image-to-depth": _image_to_depth,
    "image-to-normals": _normals,
    "depth-to-image": _depth_to_image,
    "refinement": _refinement,
    "known-pixels": _known,
}
"""Name of a measurement in ``tasks.TASKS`` -> (rows, config) -> its section, in the page's order."""
