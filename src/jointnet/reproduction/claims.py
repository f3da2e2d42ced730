"""The paper's claims, and how each is judged by the figures of the reproduction's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from jointnet.demo.measure.page import percent

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is judged.

    Attributes:
        judge: the parts' figures -> (held, in words); None where a figure is still missing.
    """

    text: str
    source: str
    judge: Callable[[Figures], tuple[bool, str] | None]


def of_seeds(parts: Figures, variant: str, *keys: str) -> list[float]:
    """A figure of every seed of a variant that is done."""
    found = []
    for name, part in parts.items():
        if name.startswith(f"train {variant} "):
            value: Any = part
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found.append(float(value))
    return found


def _keeps_quality(parts: Figures) -> tuple[bool, str]:
    base, ours = parts["base"]["generated"]["claims"], mean(of_seeds(parts, "jointnet", "generated", "claims"))
    return ours >= base - 0.03, f"claims found {percent(ours)}, base {percent(base)} (within 3 points)"


def _progress_of(parts: Figures, name: str) -> dict[int, Figures]:
    part = parts_of(parts, name)
    return {int(step): of for step, of in part["progress"].items()}


def _never_loses(parts: Figures) -> tuple[bool, str]:
    steps = _progress_of(parts, "jointnet")
    worst = min(steps, key=lambda step: steps[step]["claims"])
    return (
        steps[worst]["claims"] >= steps[0]["claims"] - 0.05,
        f"fewest claims at step {worst}: {percent(steps[worst]['claims'])}; at the start {percent(steps[0]['claims'])} (within 5 points)",
    )


def _direct_loses(parts: Figures) -> tuple[bool, str]:
    lost, words, start = [], [], _progress_of(parts, "jointnet")[0]
    for name in ("direct-copy", "direct-zeros", "direct-random"):
        steps = _progress_of(parts, name)
        early = {step: of for step, of in steps.items() if 0 < step <= 200}
        worst = min(early, key=lambda step: early[step]["claims"])
        lost.append(early[worst]["claims"] < start["claims"] - 0.1)
        words.append(f"{name.removeprefix('direct-')}: {_found(early[worst])} at step {worst}")
    return all(lost), f"{'; '.join(words)}; the base {_found(start)} (in brackets: pictures with every claim; 10 points lost in 200 steps)"


def _found(of: Figures) -> str:
    """Claims found and, in brackets, pictures in which every one is."""
    return f"{percent(of['claims'])} ({percent(of['pictures_with_every_claim'])})"


def _better_depth(parts: Figures) -> tuple[bool, str]:
    ours = mean(of_seeds(parts, "jointnet", "generated", "depth_abs_rel"))
    theirs = {name: mean(of_seeds(parts, name, "generated", "depth_abs_rel")) for name in ("direct-copy", "direct-zeros", "direct-random")}
    best = min(theirs, key=lambda name: theirs[name])
    return ours < theirs[best], f"AbsRel {ours:.4f}, the best Direct Extend ({best.removeprefix('direct-')}) {theirs[best]:.4f}"


def _exchange_needed(parts: Figures) -> tuple[bool, str]:
    ours, alone = (mean(of_seeds(parts, name, "generated", "depth_abs_rel")) for name in ("jointnet", "independent"))
    return ours < 0.5 * alone, f"AbsRel {ours:.4f} with, {alone:.4f} without exchange"


def _blending_is_not_enough(parts: Figures) -> tuple[bool, str]:
    trained, blended = parts["conditions"]["predicted"]["abs_rel"], parts_of(parts, "jointnet")["predicted by blending"]["abs_rel"]
    samples = sum(of_seeds(parts, "jointnet", "samples")[:1])
    after = f"{samples + parts['conditions']['samples']:,.0f} samples, {blended:.4f} by blending, after the first {samples:,.0f} of them"
    return trained < blended, f"image -> depth AbsRel {trained:.4f} trained, after {after}"


def _faster_than_sync(parts: Figures) -> tuple[bool, str]:
    measured = parts["times of panoramas"]["seconds"]
    times = {name: measured[name] for name in ("non-tiled", "MultiDiffusion", "SyncDiffusion", "paper")}
    return times["paper"] < min(times["MultiDiffusion"], times["SyncDiffusion"]), ", ".join(f"{n} {t:.1f} s" for n, t in times.items())


def _more_coherent(parts: Figures) -> tuple[bool, str]:
    values = {name: parts[f"panorama {name}"]["intra_distance"] for name in ("non-tiled", "MultiDiffusion", "SyncDiffusion", "paper")}
    return values["paper"] < min(values["MultiDiffusion"], values["SyncDiffusion"]), ", ".join(f"{n} {v:.3f}" for n, v in values.items())


def _refinement_helps(parts: Figures) -> tuple[bool, str]:
    rows = parts["refinement"]["rows"]
    before, after = rows["regressor at a quarter of the resolution"], rows["regressor at a quarter, refined by JointNet"]
    return after["abs_rel"] < before["abs_rel"], f"AbsRel {before['abs_rel']:.4f} -> {after['abs_rel']:.4f}"


def parts_of(parts: Figures, variant: str) -> Figures:
    """The first seed's part of a variant. Raises: KeyError."""
    for name, part in parts.items():
        if name.startswith(f"train {variant} "):
            return part
    raise KeyError(variant)


CLAIMS = (
    Claim("The extended model draws as well as its base", "Sec. 5.1, Tab. 1", _keeps_quality),
    Claim("JointNet never loses the base's ability while it trains", "Sec. 3.1, Fig. 9", _never_loses),
    Claim("Direct Extend loses it in the first steps, whatever its output layer begins with", "Sec. 3.1, A.1, Fig. 9", _direct_loses),
    Claim("After as many steps JointNet's depth is better than Direct Extend's", "A.1, Fig. 9", _better_depth),
    Claim("Branches must exchange features to agree", "Sec. 3.1", _exchange_needed),
    Claim("Blending alone conditions poorly; training with known parts is needed", "Sec. 4.1", _blending_is_not_enough),
    Claim("The paper's tiling is faster than MultiDiffusion and SyncDiffusion", "Sec. 4.2, Tab. 2", _faster_than_sync),
    Claim("Its panoramas are more of one piece than theirs", "Sec. 5.3, Tab. 2", _more_coherent),
    Claim("Refinement by JointNet betters a coarse estimate", "Sec. 5.2, Tab. 6", _refinement_helps),
)


def verdicts(parts: Figures) -> list[tuple[Claim, str, str]]:
    """Each claim with "held", "not held" or "not yet run", and the figures that say so."""
    found = []
    for claim in CLAIMS:
        try:
            judged = claim.judge(parts)
        except (KeyError, IndexError, ValueError):  # a part is missing
            judged = None
        found.append((claim, "not yet run", "") if judged is None else (claim, "held" if judged[0] else "not held", judged[1]))
    return found


NOT_MEASURABLE = (
    ("FID, IS and CLIP score on COCO 30k", "Tab. 1", "no public weights here; `jointnet evaluate generation` computes them"),
    (
        "AbsRel on MegaDepth beside MiDaS",
        "Tab. 6",
        "no public data or weights here; `jointnet evaluate depth --alignment paper` computes it",
    ),
)
