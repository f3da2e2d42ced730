"""docs/reproduction.md: one table of claims, and the tables that they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from jointnet.demo.measure.page import origin, percent, table, write_page
from jointnet.demo.measure.pictures import held_out
from jointnet.modalities.write import to_pil
from jointnet.reproduction.claims import NOT_MEASURABLE, Figures, of_seeds, verdicts
from jointnet.reproduction.measure import checkpoint_name
from jointnet.reproduction.panoramas import PANORAMAS
from jointnet.reproduction.parts import FOLLOWED
from jointnet.reproduction.variants import VARIANTS

_NEARLY = 1.05
"""Errors that are at most so many times as large count as nearly the same."""

PROGRESS_PICTURE, PANORAMA_PICTURE = "reproduction-progress.png", "reproduction-panoramas.png"


def write_reproduction(figures: Figures, path: Path, pictures: Path) -> None:
    """Write the page of the parts that are done; pictures go to ``pictures/`` beside it."""
    parts = figures["parts"]
    budget = figures["budget"]
    folder = path.parent / "pictures"
    shown = [
        name
        for name, made in (
            (PROGRESS_PICTURE, progress_sheet(pictures, budget["checkpoints"])),
            (PANORAMA_PICTURE, panorama_sheet(pictures)),
        )
        if _save(made, folder / name)
    ]
    missing = [name for name in figures["names"] if name not in parts]
    write_page(
        path,
        [
            "# The paper, reproduced on the demo world",
            "Written by `jointnet reproduce`. The base is the bundled one, the data are rendered, the truth is exact. Each network is "
            f"trained from the same base for {budget['steps']} steps of {budget['batch']} samples by the same loop, order and draws; those "
            "that have no second stage to compare with JointNet's (ControlNet, Marigold's way) for twice as many, and LDM3D's way also has "
            "an autoencoder of its own. These are short runs at a small size: a claim that does not hold here may hold at the paper's "
            "size, and the other way round.",
            f"**Not yet run:** {', '.join(missing)}." if missing else "",
            _claims(parts),
            _others(parts),
            _networks(parts),
            f"![Progress](pictures/{PROGRESS_PICTURE})\n\n{_progress_caption(budget)}" if PROGRESS_PICTURE in shown else "",
            _progress(parts),
            _conditions(parts),
            _ablations(parts),
            f"![Panoramas](pictures/{PANORAMA_PICTURE})\n\n{_panorama_caption(pictures)}" if PANORAMA_PICTURE in shown else "",
            _panoramas(parts),
            _refinement(parts),
            _budget(figures),
            _origins(parts),
        ],
    )


def spread(values: list[float], form: str = ".4f") -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    return f"{mean(values):{form}}" + (f" +- {stdev(values):{form}}" if len(values) > 1 else "")


def _claims(parts: Figures) -> str:
    rows = [
        [claim.text, claim.source, f"**{verdict}**" if verdict.endswith("held") else verdict, words]
        for claim, verdict, words in verdicts(parts)
    ]
    rows += [[text, source, "not measurable here", why] for text, source, why in NOT_MEASURABLE]
    return "## Claims\n\n" + table(["claim", "where", "verdict", "by"], rows)


def _others(parts: Figures) -> str:
    """Where something else is better than JointNet, by the tables below."""
    ours, found = of_seeds(parts, "jointnet", "generated", "depth_abs_rel"), []
    conditions, control, marigold = parts.get("conditions"), *(_first(parts, name) for name in ("controlnet", "marigold-style"))
    if conditions and control:
        mine, theirs = (of["conditioned"] for of in (conditions, control))
        if theirs["abs_rel"] < mine["abs_rel"]:
            drawn = f"(claims found {percent(theirs['claims'])} against {percent(mine['claims'])})"
            words = f"AbsRel {theirs['abs_rel']:.4f} against {mine['abs_rel']:.4f}"
            found.append(f"depth -> image: diffusers' ControlNet keeps to a depth map better, {words}, and to the prompt {drawn}")
    if conditions and marigold and marigold["predicted"]["abs_rel"] < conditions["predicted"]["abs_rel"]:
        found.append(f"image -> depth: Marigold's way, AbsRel {marigold['predicted']['abs_rel']:.4f}")
    ldm3d, one_way = (of_seeds(parts, name, "generated", "depth_abs_rel") for name in ("ldm3d-style", "rgb-to-depth"))
    if ours and ldm3d:
        other = _first(parts, "ldm3d-style")["generated"]
        mine = mean(of_seeds(parts, "jointnet", "generated", "kid_x1000"))
        if other["kid_x1000"] < mine:
            found.append(f"pictures: LDM3D's way has KID {other['kid_x1000']:.1f} against {mine:.1f}, at AbsRel {ldm3d[0]:.4f}")
    if ours and one_way and mean(one_way) < _NEARLY * mean(ours):
        words = f"AbsRel {spread(one_way)} against {spread(ours)}"
        found.append(f"exchange from RGB to depth alone keeps the base's pictures as they are and has nearly JointNet's depth: {words}")
    if not found:
        return ""
    return "## Where something else does as well or better\n\n" + "\n".join(f"- {line}." for line in found)


def _first(parts: Figures, variant: str) -> Figures:
    """The part of a variant's first seed; empty if it is not done."""
    return next((part for key, part in parts.items() if key.startswith(f"train {variant} ")), {})


def _networks(parts: Figures) -> str:
    """Table 1."""
    rows = []
    for name, label in (("base", "base (not extended)"),):
        if name in parts:
            of = parts[name]["generated"]
            rows.append([label, percent(of["claims"]), f"{of['fd']:.2f}", f"{of['kid_x1000']:.3f}", "-", "-"])
            renders = parts[name]["renders"]
            rows.append(["renders (what is drawn from)", percent(renders["claims"]), "0", "-", "-", "-"])
    for name in (
        "jointnet",
        "jointnet-normal",
        "direct-copy",
        "direct-zeros",
        "direct-random",
        "ldm3d-style",
        "independent",
        "rgb-to-depth",
        "depth-to-rgb",
    ):
        if of_seeds(parts, name, "seconds"):
            rows.append(_row(parts, name))
    for name in ("stage 2", "conditions"):
        if name in parts:
            of = parts[name]["generated"]
            rows.append(
                [
                    parts[name]["about"],
                    percent(of["claims"]),
                    f"{of['fd']:.2f}",
                    f"{of['kid_x1000']:.3f}",
                    f"{of['depth_abs_rel']:.4f}",
                    f"{parts[name]['trained_parameters_m']} M",
                ]
            )
    head = ["network", "claims found", "FD-EffLite0", "KID x 1000", "depth against picture, AbsRel", "trained"]
    known = parts.get("base", {}).get("judge on renders")
    judge = (
        ""
        if known is None
        else f" The depth in a picture is read off it by a regressor, whose own AbsRel on renders is {known['abs_rel']:.4f}."
    )
    return (
        "## Generation (Table 1)\n\nPictures of held-out prompts; mean +- standard deviation over seeds where there are several. Claims "
        "found: of what a prompt says (shapes, colours, sizes, sides, floor, sky), the share that a judge finds in the picture; what it "
        f"finds in renders, from which it learned, is its limit.{judge} The base and the RGB of two branches without exchange are the same "
        "network from the same noise: what differs between their rows is rounding, the least that any difference must exceed.\n\n"
        + table(head, rows)
    )


def _row(parts: Figures, name: str) -> list[str]:
    claims = of_seeds(parts, name, "generated", "claims")
    return [
        VARIANTS[name].about,
        spread([100 * value for value in claims], ".1f") + " %",
        spread(of_seeds(parts, name, "generated", "fd"), ".2f"),
        spread(of_seeds(parts, name, "generated", "kid_x1000"), ".3f"),
        spread(of_seeds(parts, name, "generated", "depth_abs_rel")),
        f"{of_seeds(parts, name, 'trained_parameters_m')[0]:g} M",
    ]


def _progress_caption(budget: Figures) -> str:
    rows = "; ".join(VARIANTS[name].about for name in FOLLOWED)
    steps = ", ".join(map(str, budget["checkpoints"]))
    return f'"{_prompt()}", one seed. Columns: after {steps} steps. Rows, each a picture above its depth: {rows}.'


def _panorama_caption(pictures: Path) -> str:
    shown = [name for name in PANORAMAS if _panorama_file(pictures, name).is_file()]
    return f'"{_prompt()}", one seed, each a picture above its depth: {"; ".join(shown)}.'


def _prompt() -> str:
    """Of the pictures that are shown."""
    return held_out(1).captions[0].text


def _progress(parts: Figures) -> str:
    """Fig. 9."""
    rows = []
    for name in FOLLOWED:
        part = _first(parts, name)
        if "progress" in part:
            rows += [
                [
                    VARIANTS[name].about,
                    step,
                    percent(of["claims"]),
                    percent(of["pictures_with_every_claim"]),
                    f"{of['kid_x1000']:.2f}",
                    f"{of.get('depth_abs_rel', float('nan')):.3f}",
                ]
                for step, of in part["progress"].items()
            ]
    return (
        ""
        if not rows
        else "## Over the training (Fig. 9, Sec. 3.1)\n\n"
        + table(["network", "step", "claims found", "pictures with all of them", "KID x 1000", "depth against picture, AbsRel"], rows)
    )


def _conditions(parts: Figures) -> str:
    rows = []
    for label, key in (("JointNet, stage 1 and the stage of conditions", "conditions"),):
        if key in parts:
            first = sum(of_seeds(parts, "jointnet", "samples")[:1])
            rows.append(_condition_row(label, {**parts[key], "samples": int(parts[key]["samples"] + first)}))
    for name in ("controlnet", "marigold-style", "jointnet"):
        part = _first(parts, name)
        if part:
            label = VARIANTS[name].about + (", by blending alone" if name == "jointnet" else "")
            rows.append(_condition_row(label, part))
    return (
        ""
        if not rows
        else "## Depth to image, image to depth\n\nAs many steps in all for each, but half as many by blending alone; exact truth.\n\n"
        + table(["network", "image -> depth, AbsRel", "delta1", "depth -> image: read off it, AbsRel", "claims found", "samples"], rows)
    )


def _condition_row(label: str, part: Figures) -> list[str]:
    predicted = part.get("predicted") or part.get("predicted by blending") or {}
    made = part.get("conditioned") or {}

    def of(values: Figures, key: str) -> str:
        return f"{values[key]:.4f}" if key in values else "-"

    claims = percent(made.get("claims")) if made else "-"
    return [label, of(predicted, "abs_rel"), of(predicted, "delta1"), of(made, "abs_rel"), claims, f"{part['samples']:,}"]


def _ablations(parts: Figures) -> str:
    names = (
        "jointnet",
        "no-input",
        "no-skips",
        "no-mid",
        "independent",
        "rgb-to-depth",
        "depth-to-rgb",
        "no-noise-offset",
        "min-snr",
        "near-dark",
    )
    rows = [
        [
            VARIANTS[name].about,
            spread([100 * value for value in of_seeds(parts, name, "generated", "claims")], ".1f") + " %",
            spread(of_seeds(parts, name, "generated", "kid_x1000"), ".3f"),
            spread(of_seeds(parts, name, "generated", "depth_abs_rel")),
            spread(of_seeds(parts, name, "predicted by blending", "abs_rel")),
        ]
        for name in names
        if of_seeds(parts, name, "seconds")
    ]
    head = ["stage 1 with", "claims found", "KID x 1000", "depth against picture, AbsRel", "image -> depth by blending, AbsRel"]
    return "" if not rows else "## Ablations\n\n" + table(head, rows)


def _panoramas(parts: Figures) -> str:
    """Table 2."""
    rows, times = [], parts.get("times of panoramas")
    for name in PANORAMAS:
        part = parts.get(f"panorama {name}")
        if part is not None:
            rows.append(
                [
                    name,
                    str(part["images"]),
                    "-" if times is None else f"{times['seconds'][name]:.1f} s ({times['ratios'][name]:.2f} x)",
                    f"{part['intra_distance']:.3f} +- {part['intra_spread']:.3f}",
                    f"{part['seams_rgb']:.2f} ({part['between_rgb']:.2f})",
                    f"{part['seams_depth']:.2f} ({part['between_depth']:.2f})",
                    f"{part['kid_x1000']:.1f}",
                ]
            )
    first = next((part for key, part in parts.items() if key.startswith("panorama ")), None)
    if first is None:
        return ""
    head = ["method", "panoramas", "time of one", "intra-distance", "seams, RGB (between)", "seams, depth (between)", "KID x 1000"]
    return (
        "## Panoramas (Table 2)\n\n128 x 512 px with the bundled model. Intra-distance: mean of "
        f"{first['distance']} between the four squares, low for a picture of one piece, and also for an empty or a blurred "
        "one: a non-tiled panorama shows a small part of the scene, magnified. "
        "Seams: how much stronger gradients are across the edges of windows (every 16 px) than beside them, and in brackets midway between "
        "those edges: the score rises with sharpness of any kind, white noise has a high one, so only what lies above the number in "
        "brackets is a seam. In the non-tiled row no windows meet there, and the windows of the paper move from step to step, so that "
        "their edges are nowhere in particular. Time: median of panoramas made in turn by each method, alone on the machine, and "
        "its ratio to the non-tiled one of the same round. KID: of the squares against renders. "
        "SyncDiffusion has its paper's weight, 20; the weaker one was added after a first look at one "
        "panorama, scaled by an argument (`reproduction/panoramas.py`), and no claim is judged by it.\n\n" + table(head, rows)
    )


def _refinement(parts: Figures) -> str:
    """Table 6."""
    if "refinement" not in parts:
        return ""
    found = parts["refinement"]["rows"]
    rows = [[name, f"{of['abs_rel']:.4f}", f"{of['rmse_disparity']:.4f}", f"{of['delta1']:.4f}"] for name, of in found.items()]
    refined, alone = found["regressor at a quarter, refined by JointNet"]["abs_rel"], found["JointNet, image to depth"]["abs_rel"]
    note = "" if refined < alone else " The coarse map adds nothing here to what JointNet sees in the picture alone."
    return (
        "## Image to depth, and refinement (Table 6)\n\nA regressor that sees a quarter of the resolution stands in MiDaS's place; "
        f"JointNet is the bundled demo-tasks.{note}\n\n" + table(["method", "AbsRel (depth)", "RMSE (disparity)", "delta1"], rows)
    )


def _budget(figures: Figures) -> str:
    """What is trained and measured, what it took so far, and by that what is left."""
    budget, parts, names = figures["budget"], figures["parts"], figures["names"]
    trainings = sum(name.startswith("train ") for name in names) + 2
    prompts, seeds = budget["panoramas"]
    minutes = [part["minutes"] for part in parts.values()]
    left = [name for name in names if name not in parts and "panorama" not in name]
    pictures = f"{budget['prompts']} of a network, {budget['few_prompts']} of a checkpoint, {budget['sampling_steps']} sampling steps"
    taken = f"{len(parts)} of {len(names)} parts, {sum(minutes) / 60:.1f} hours of processes that may have run side by side"
    rows = [
        ["trainings", f"{trainings} of {budget['steps']} steps of {budget['batch']}; twice the steps without a second stage"],
        ["data", f"{budget['scenes']:,} rendered scenes"],
        ["seeds", f"{', '.join(map(str, budget['seeds']))} where spread matters most, else the first"],
        ["pictures", pictures],
        ["panoramas", f"{len(PANORAMAS)} methods, {prompts} prompts x {seeds} seeds"],
        ["the paper's training, for comparison", "10,000 steps of 256"],
        ["taken so far", taken],
    ]
    if left and minutes:
        rows.append(["left, without panoramas, at the mean of what is done", f"{len(left) * mean(minutes) / 60:.1f} hours"])
    return "## Budget\n\n" + table(["of", "how much"], rows)


def _origins(parts: Figures) -> str:
    lines: dict[str, list[str]] = {}
    for name, part in parts.items():
        count = part.get("threads")
        threads = "" if count is None else f", {count} thread{'' if count == 1 else 's'}"
        lines.setdefault(origin(dict(part)) + threads, []).append(f"{name} ({part['minutes']:g} min)")
    return "## Where the figures come from\n\n" + "\n".join(f"- {where}: {', '.join(names)}" for where, names in lines.items())


def progress_sheet(pictures: Path, steps: Sequence[int]) -> Image.Image | None:
    """Rows: networks; columns: steps; of each an RGB and its depth."""
    places = {name: [pictures / f"{checkpoint_name(name, step)}.safetensors" for step in steps] for name in FOLLOWED}
    shown = [number for number in range(len(steps)) if any(of_name[number].is_file() for of_name in places.values())]
    rows = []
    for of_name in places.values():
        cells = [cell for number in shown if (cell := _cell(of_name[number])) is not None]
        if shown and len(cells) == len(shown):
            rows.append(torch.cat(cells, 2))
    return to_pil(torch.cat(rows, 1)) if rows else None


def panorama_sheet(pictures: Path) -> Image.Image | None:
    """One prompt by every method, RGB above depth."""
    cells = [_cell(_panorama_file(pictures, name)) for name in PANORAMAS]
    found = [cell for cell in cells if cell is not None]
    return to_pil(torch.cat(found, 1)) if found else None


def _panorama_file(pictures: Path, method: str) -> Path:
    return pictures / f"panorama {method} 0.safetensors"


def _cell(path: Path) -> Tensor | None:
    """(3, 2 H, W): a picture and its depth."""
    if not path.is_file():
        return None
    maps = load_file(path)
    return torch.cat([maps["rgb"][0].clamp(0, 1), maps["depth"][0].clamp(0, 1).expand(3, -1, -1)], 1)


def _save(picture: Image.Image | None, path: Path) -> bool:
    """Write a sheet; one that was written earlier stays where there are no pictures now."""
    if picture is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return path.is_file()
