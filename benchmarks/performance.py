"""docs/performance.md, of what benchmarks/inference.py (times), speed.py (quality) and panoramas.py have measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnet.demo.measure.page import origin, percent, table, verdict, write_page
from jointnet.sampling.speed import SPEED_NAMES

FIGURES = Path(__file__).parents[1] / "docs" / "performance.json"
PICTURES = 300
"""Held-out scenes that quality is measured on."""

REFINED = "fast, refined at twice the size"
"""A panorama, and a second pass."""

SECONDS = {("1 of 128 x 128", "fast"): 1.0, ("panorama of 128 x 512", "fast"): 5.0, ("panorama of 128 x 512", REFINED): 20.0}
"""Of the bundled model on two cores, at most: (case, way) -> aim."""

AIMS = {"balanced": 1.0, "fast": 0.3}
"""Of a picture's time to the base's in 50 steps, at most."""


def write(figures: Mapping[str, Any]) -> None:
    """Write the page."""
    times = figures.get("times", {})
    write_page(
        FIGURES.with_suffix(".md"),
        [
            "# Performance",
            "Written by `inference.py`, `speed.py`, `trained.py`, `panoramas.py` and `growth.py` of benchmarks/. Times "
            "are medians of runs in turn; a ratio is the median over rounds of a time to the base's in the same round. The base is "
            "diffusers' pipeline alone, eager, in 50 guided DDIM steps.",
            *(_calls(name.removeprefix("calls, "), of) for name, of in times.items() if name.startswith("calls, ")),
            _backends(times["backends"]) if "backends" in times else "",
            _pictures(times["pictures"]) if "pictures" in times else "",
            _memory(times["memory"]) if "memory" in times else "",
            _speeds(figures["speeds"]) if "speeds" in figures else "",
            _counted(figures["counted"]) if "counted" in figures else "",
            _trained(figures["trained"]) if "trained" in figures else "",
            _panoramas(figures["panoramas"]) if "panoramas" in figures else "",
            _growth(figures["growth"]) if "growth" in figures else "",
        ],
    )


def _row(name: str, of: Mapping[str, float], aims: Mapping[str, float] = AIMS) -> list[str]:
    aim = f"{aims[name]:g} x: {verdict(of['ratio'] <= aims[name])}" if name in aims else ""
    return [f"**{name}**" if name in SPEED_NAMES else name, f"{of['seconds']:.2f} s", f"{of['ratio']:.2f} x", aim]


def _calls(case: str, of: Mapping[str, Any]) -> str:
    calls = [_row(name, call)[:3] for name, call in of["calls"].items()]
    pictures = [_row(name, picture) for name, picture in of["pictures"].items()]
    return (
        f"## {case}, Stable Diffusion 2.1-base's size\n\nRandom weights. Each kind of call, guided unless it says otherwise, in "
        f"{of['rounds']} rounds:\n\n{table(['call', 'time', 'to the base'], calls)}\n\n"
        "Pictures, as sums of the calls that they make and of the maps that are decoded, one after the other:\n\n"
        f"{table(['picture', 'time', 'to the base', 'aim'], pictures)}\n\n*{origin(dict(of))}, on {of['device']}.*"
    )


def _backends(of: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{one['seconds']:.2f} s", f"{one['ratio']:.2f} x", f"{one['preparing']:.0f} s" if "preparing" in one else ""]
        for name, one in of["backends"].items()
    ]
    best = min(one["ratio"] for one in of["backends"].values())
    return (
        "## Ways to run the whole network\n\nOne guided call of 512 x 512 at the same size against the eager base; all give the numbers of "
        f"the first.\n\n{table(['way', 'time', 'to the base', 'preparing, once'], rows)}\n\nAim: at most 1.6 x: {verdict(best <= 1.6)}.\n\n"
        f"*{origin(dict(of))}, on {of['device']}.*"
    )


def _pictures(of: Mapping[str, Any]) -> str:
    parts = []
    for case, rows in of["pictures"].items():
        aims = {} if case.startswith("panorama") else AIMS
        parts.append(
            f"{case}:\n\n{table(['picture', 'time', 'to the base', 'aim'], [_row(name, one, aims) for name, one in rows.items()])}"
        )
    aims = [
        f"- {case}, {way}: at most {aim:g} s: {verdict(of['pictures'][case][way]['seconds'] <= aim)}"
        for (case, way), aim in SECONDS.items()
        if way in of["pictures"].get(case, {})
    ]
    return (
        f"## The bundled model\n\nWhole pictures, the text and the maps included; loading takes {of['loading']} s.\n\n"
        + "\n\n".join([*parts, "Aims on two cores:\n\n" + "\n".join(aims)])
        + f"\n\n*{origin(dict(of))}, on {of['device']}.*"
    )


def _memory(of: Mapping[str, Any]) -> str:
    kinds = list(next(iter(of["peak_gib"].values())))
    rows = [[case, *(f"{peaks[kind]:.2f} GiB" for kind in kinds)] for case, peaks in of["peak_gib"].items()]
    return (
        f"## Memory\n\nPeak of one guided step at Stable Diffusion 2.1-base's size, bfloat16, each in a process of its own.\n\n"
        f"{table(['case', *kinds], rows)}\n\n*{origin(dict(of))}, on {of['device']}.*"
    )


def _speeds(speeds: Mapping[str, Any]) -> str:
    rows = []
    for name, of in speeds.items():
        made = of["generated"]
        rows.append(
            [
                f"**{name}**" if name in SPEED_NAMES else name,
                f"{of['cost']['sd21']:.2f}",
                f"{of['cost']['demo']:.2f}",
                percent(made["claims"]),
                f"{made['fd']:.1f}",
                f"{made['kid_x1000']:.1f}",
                f"{made['depth_abs_rel']:.4f}",
                f"{of['predicted']['abs_rel']:.4f}",
                "yes" if _is_on_front(name, speeds) else "",
            ]
        )
    head = ["speed", "cost, SD 2.1", "cost, demo", "claims found", "FD-EffLite0", "KID x 1000", "depth against picture, AbsRel"]
    head += ["image -> depth, AbsRel", "on the front"]
    origins = dict.fromkeys(origin(of) for of in speeds.values())
    return (
        "## What speed costs in quality\n\nCost: operations of the networks for one guided picture, counted, 1 being the base alone in 50 "
        f"steps. Quality: the bundled models on {PICTURES} held-out scenes, every speed with the same prompts, seeds and judges. On the "
        f"front: no other speed costs less and is as good in every figure.\n\n{table(head, rows)}\n\n*{'; '.join(origins)}.*"
    )


def _counted(of: Mapping[str, Any]) -> str:
    branches = [[str(row["maps"]), row["branch"], f"{row['operations']:.2f} x", f"{row['new_weights_m']:.1f} M"] for row in of["branches"]]
    parts = list(next(iter(of["shares"].values())))
    shares = [[part, *(percent(shares[part]) for shares in of["shares"].values())] for part in parts]
    return (
        "## Branches that weigh less\n\nOf a call at Stable Diffusion 2.1's size, to the base's; counted (`benchmarks/light.py`). Aim: two "
        f"maps at 1.3 x, three at 1.6 x.\n\n{table(['maps', 'branch', 'operations', 'new weights'], branches)}\n\n"
        "## What could be taken over from earlier steps\n\nShares of a guided call of the base: the most that could be saved if all of a "
        "part were free. So cross-attention is not kept after it converges (Zhang et al., 2024, T-GATE), attention is not broadcast over "
        "steps (Zhao et al., 2024, PAB), and the text's keys and values are computed anew: deep features that are taken over leave out "
        f"most of the same layers, and more.\n\n{table(['part', *of['shares']], shares)}\n\n*{origin(dict(of))}.*"
    )


def _trained(models: Mapping[str, Any]) -> str:
    drawn, predicted = [], []
    for name, of in models.items():
        samples = f"{of['samples']:,}" if "samples" in of else "as bundled"
        for way, one in of["figures"].items():
            row = [name, samples, f"{of['new_weights_m']:.2f} M", way.split(" in ")[1], f"{one['cost']:.3f}"]
            if way.startswith("drawn"):
                drawn.append([*row, percent(one["claims"]), f"{one['fd']:.1f}", f"{one['kid_x1000']:.1f}", f"{one['depth_abs_rel']:.4f}"])
            else:
                predicted.append([*row, f"{one['abs_rel']:.4f}", f"{one['delta1']:.4f}"])
    head = ["model", "trained on samples", "new weights", "steps", "cost"]
    at_sd21 = [f"{name} {of['cost_sd21']:.2f} x" for name, of in models.items() if "cost_sd21" in of]
    origins = dict.fromkeys(origin(of) for of in models.values())
    return (
        "## Trained to cost less\n\nShort trainings on the demo world (`benchmarks/trained.py`): few-steps and one-step distil the bundled "
        "models; full, lora and thin extend the bundled base anew by branches of that kind, the last two taught by the bundled demo. Cost: "
        f"of one picture, or of one prediction, 1 being the base alone in 50 steps; measured as the speeds are.\n\n"
        f"{table([*head, 'claims found', 'FD-EffLite0', 'KID x 1000', 'depth against picture, AbsRel'], drawn)}\n\n"
        f"{table([*head, 'image -> depth, AbsRel', 'delta1'], predicted)}\n\n"
        + (f"A call at Stable Diffusion 2.1's size, to the base's: {', '.join(at_sd21)}.\n\n" if at_sd21 else "")
        + f"*{'; '.join(origins)}.*"
    )


def _panoramas(ways: Mapping[str, Any]) -> str:
    times = ways.get("times")
    rows = [
        [
            name,
            "-" if times is None else f"{times['seconds'][name]:.2f} s ({times['ratios'][name]:.2f} x)",
            f"{of['intra_distance']:.3f} +- {of['intra_spread']:.3f}",
            f"{of['seams_rgb']:.2f} ({of['between_rgb']:.2f})",
            f"{of['seams_depth']:.2f} ({of['between_depth']:.2f})",
            f"{of['kid_x1000']:.1f}",
        ]
        for name, of in ways.items()
        if name != "times"
    ]
    head = ["way", "time, to the non-tiled one", "intra-distance", "seams, RGB (between)", "seams, depth (between)", "KID x 1000"]
    first = next(of for name, of in ways.items() if name != "times")
    origins = dict.fromkeys(origin(of) for of in ways.values())
    return (
        f"## Panoramas that compute less\n\n{first['images']} of 128 x 512 with the bundled model by each way; what is measured is told in "
        f"[reproduction.md](reproduction.md#panoramas-table-2).\n\n{table(head, rows)}\n\n*{'; '.join(origins)}.*"
    )


def _growth(kinds: Mapping[str, Any]) -> str:
    words = {
        "width": "Width of a panorama in tiles, 128 rows, 2 steps",
        "batch": "Pictures at once, 128 x 128, 2 steps",
        "maps": "Maps of a network, ten guided calls",
    }
    parts = []
    for kind, of in kinds.items():
        rows = [[f"{row['size']:,}", f"{row['seconds']:.2f} s", f"{row['mib']:.0f} MiB"] for row in of["rows"]]
        shown = table([kind, "time", "memory beyond one picture"], rows)
        parts.append(f"{words[kind]}: time grows as the size to the power {of['exponent']:.2f}.\n\n{shown}")
    origins = dict.fromkeys(origin(of) for of in kinds.values())
    return "## Growth\n\nThe bundled model, each case in a process of its own.\n\n" + "\n\n".join(parts) + f"\n\n*{'; '.join(origins)}.*"


def _is_on_front(name: str, speeds: Mapping[str, Any]) -> bool:
    def key(of: Any) -> tuple[float, ...]:
        made = of["generated"]
        return of["cost"]["sd21"], -made["claims"], made["fd"], made["depth_abs_rel"], of["predicted"]["abs_rel"]

    own = key(speeds[name])
    others = [key(of) for other, of in speeds.items() if other != name]
    return not any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in others)
