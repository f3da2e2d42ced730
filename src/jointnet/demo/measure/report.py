"""The measurement as a page: docs/demo-model.md is written here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from jointnet.demo.measure.page import GRID_FILE, origin, percent, table, verdict, write_page, written_by
from jointnet.demo.world.captions import CLAIM_KINDS
from jointnet.files.atomic import replacing_file
from jointnet.modalities.write import preview, to_pil

_WEAK = 0.95
COMMAND = "jointnet demo evaluate"


def write_report(figures: dict[str, Any], path: Path, notes: str = "") -> None:
    """Write all figures with their aims; ``notes`` (causes of misses, found by hand) is kept in a section of its own."""
    config = figures["config"]
    parts = [
        "# The demo model, measured",
        f"{written_by(COMMAND)} ({origin(figures)}). "
        f"Held-out test scenes; image i has seed 1000 + i; {config['steps']} steps of {figures['scheduler']}, guidance "
        f"{config['guidance']:g}.",
        f"![16 samples]({GRID_FILE})\n\nThe first 16 held-out prompts, none picked: image above, depth below.",
        _floors(figures),
        _attributes(figures),
        _depth(figures),
        _distance(figures),
        _sampling(figures),
        notes,
    ]
    write_page(path, parts)


def write_grid(images: Tensor, depth: Tensor, path: Path, columns: int = 8) -> None:
    """Pictures (N, 3, H, W) in [0, 1] with their depth (N, 1, H, W) in colour below each, as one PNG."""
    pairs = [np.concatenate([np.asarray(to_pil(i)), np.asarray(preview(d))]) for i, d in zip(images, depth, strict=True)]
    rows = [np.concatenate(pairs[start : start + columns], 1) for start in range(0, len(pairs), columns)]
    mark = PngInfo()
    mark.add_text("Software", COMMAND)
    with replacing_file(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG", optimize=True, pnginfo=mark)


def _floors(figures: dict[str, Any]) -> str:
    quality = figures["autoencoder_psnr_db"]
    attributes, depth = figures["attributes"], figures["depth"]
    on_renders = attributes["renders"]
    weak = [k for k in ("all", *CLAIM_KINDS) if k in on_renders and on_renders[k] < _WEAK]
    judged = f"Weak judge (below 95 % on renders) for: {', '.join(weak)}." if weak else "No judge is below 95 % on renders."
    return "\n\n".join(
        [
            "## Floors: what the judges and the autoencoder can do",
            "The judges were trained on rendered training scenes only. " + judged,
            table(
                ["floor", "value"],
                [
                    ["autoencoder, RGB", f"{quality['rgb']:.2f} dB PSNR"],
                    ["autoencoder, depth", f"{quality['depth']:.2f} dB PSNR"],
                    ["autoencoder, normals", f"{quality['normal']:.2f} dB PSNR"],
                    ["attribute judge on held-out renders", percent(on_renders["all"])],
                    ["attribute judge on autoencoded renders", percent(attributes["autoencoded renders"]["all"])],
                    ["depth regressor on held-out renders", f"AbsRel {depth['regressor on renders']['abs_rel']:.4f}"],
                    [
                        "depth regressor on autoencoded renders",
                        f"AbsRel {depth['regressor on autoencoded renders']['abs_rel']:.4f}",
                    ],
                    ["exact depth through the autoencoder", f"AbsRel {depth['autoencoded depth']['abs_rel']:.4f}"],
                ],
            ),
        ]
    )


def _attributes(figures: dict[str, Any]) -> str:
    attributes = figures["attributes"]
    columns = ["renders", "autoencoded renders", "base", "joint"]
    names = {"all": "all claims", "picture": "pictures with every claim"}
    rows = [[names.get(kind, kind), *(percent(attributes[c].get(kind)) for c in columns)] for kind in ("all", *CLAIM_KINDS, "picture")]
    aim = 0.9 * attributes["autoencoded renders"]["all"]
    base, joint = attributes["base"]["all"], attributes["joint"]["all"]
    return "\n\n".join(
        [
            f"## Prompt attributes found in the image ({figures['config']['num_prompts']} prompts)",
            table(["claim", *columns], rows),
            f"Aim, base: at least 0.9 x the judge on autoencoded renders = {percent(aim)}: {percent(base)}, {verdict(base >= aim)}. "
            f"Aim, joint: the same: {percent(joint)}, {verdict(joint >= aim)}; and within 3 points of the base: "
            f"{100 * (joint - base):+.1f} points, {verdict(joint >= base - 0.03)}.",
        ]
    )


def _depth(figures: dict[str, Any]) -> str:
    depth = figures["depth"]
    floor = depth["regressor on autoencoded renders"]["abs_rel"]
    value = depth["generated depth"]["abs_rel"]
    rows = [
        [name, f"{depth[name]['abs_rel']:.4f}", f"{depth[name]['delta1']:.4f}", str(depth[name]["images"])]
        for name in ("regressor on autoencoded renders", "generated depth", "generated depth, shuffled")
    ]
    return "\n\n".join(
        [
            "## Does the generated depth agree with the generated image?",
            "Generated depth against what the depth regressor reads off the generated image, aligned by scale and shift in disparity, "
            "pixels nearer than 20 m; shuffled: against the reading of another image.",
            table(["pair", "AbsRel", "delta1", "images"], rows),
            f"Aim: AbsRel at most 1.5 x the regressor's error on autoencoded renders = {1.5 * floor:.4f}: {value:.4f}, "
            f"{verdict(value <= 1.5 * floor)}.",
        ]
    )


def _distance(figures: dict[str, Any]) -> str:
    distance = figures["distance"]
    rows = []
    for name in ("autoencoded renders", "base", "joint"):
        fd, (kid, spread) = distance[name]["fd"], distance[name]["kid"]
        rows.append(
            [
                name,
                f"{fd['value']:.3f}",
                f"{fd['corrected']:.3f}",
                f"{fd['low']:.3f} to {fd['high']:.3f}",
                f"{1000 * kid:.3f} +- {1000 * spread:.3f}",
            ]
        )
    limit = 1.05 * distance["base"]["fd"]["corrected"]
    high = distance["joint"]["fd"]["high"]
    return "\n\n".join(
        [
            f"## Distance to renders ({figures['config']['num_images']} images)",
            f"Features: {figures['features']}. {figures['config']['num_bootstrap']} bootstrap draws of both sets, basic 95 % interval. "
            "A finite sample raises the distance; less bias: what the draws show of that taken off, which the interval lies about. "
            "The reference are the renders of the same held-out prompts. Autoencoded renders are these very pictures through the "
            "autoencoder: what its blur alone costs.",
            table(["images", "FD-EffLite0", "less bias", "95 % interval", "KID x 1000"], rows),
            f"Aim: the joint model's upper bound at most 1.05 x the base (less bias) = {limit:.3f}: {high:.3f}, {verdict(high <= limit)}.",
        ]
    )


def _sampling(figures: dict[str, Any]) -> str:
    rows = [
        [row["model"], row["scheduler"], f"{row['guidance']:g}", percent(row["claims"]), f"{row['abs_rel']:.4f}", f"{row['delta1']:.4f}"]
        for row in figures["sampling"]
    ]
    return "\n\n".join(
        [
            f"## Other ways to sample ({figures['config']['num_validation']} prompts of validation scenes)",
            "Claims of the prompt found in the image, and the generated depth against the reading of the image. These scenes are none of "
            "those above, so that defaults can be chosen by them. demo-tasks is the model that also conditions and edits.",
            table(["model", "scheduler", "guidance", "all claims", "AbsRel", "delta1"], rows),
        ]
    )
