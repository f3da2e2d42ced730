"""What a panorama may leave out: python benchmarks/panoramas.py [NAME ...] writes docs/performance.json and docs/performance.md.

The bundled model, 128 x 512, every way with the same prompts and seeds: how much of one piece they are, their seams, their squares'
distance to renders. Each way's panoramas are kept, so a stopped run goes on. "times" makes one by each way, in turn; alone on the machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.demo.measure.pictures import precision_name
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.reproduction.panoramas import Method, measure_panoramas, time_panoramas
from jointnet.reproduction.parts import Reproduction
from jointnet.reproduction.setting import Budget
from jointnet.sampling.speed import Speed
from jointnet.sampling.tiling import Tiling

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.performance import FIGURES, write

BUDGET = Budget(panoramas=(16, 2), prompts=300)
STEPS = BUDGET.sampling_steps
ALONE = Speed(steps=STEPS, guides_dense=False)


def _tiles(**changes: float) -> Tiling:
    return Tiling(window=16, **changes)  # pyright: ignore[reportArgumentType] - of any field


WAYS = {
    "non-tiled": Method(tiling=None),
    "paper": Method(tiling=_tiles()),
    "stride 12": Method(tiling=_tiles(stride=12)),
    "stride 14": Method(tiling=_tiles(stride=14)),
    "stride 16": Method(tiling=_tiles(stride=16)),
    "stride 12, whole image to 0.2": Method(tiling=_tiles(stride=12, whole_share=0.2)),
    "stride 12, whole image every 2": Method(tiling=_tiles(stride=12, whole_every=2)),
    "stride 12, whole image alone to 0.2": Method(tiling=_tiles(stride=12, whole_share=0.2, alone_share=0.2)),
    "stride 12, whole image alone to 0.4": Method(tiling=_tiles(stride=12, alone_share=0.4)),
    "stride 14, whole image alone to 0.4": Method(tiling=_tiles(stride=14, alone_share=0.4)),
    "stride 12, whole image alone to 0.4, unguided dense": Method(tiling=_tiles(stride=12, alone_share=0.4), speed=ALONE),
    "paper, unguided dense": Method(tiling=_tiles(), speed=ALONE),
}
"""Lengths in latent pixels; a window has 16. The paper's stride is 8, its whole image takes part up to 0.4 of the steps."""


def measure(names: list[str], work: Path) -> None:
    """Measure ways, and write the page after each."""
    judges = Reproduction(work, BUDGET, torch.device("cpu")).judges
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        known_by = {"commit": code_commit(), "machine": machine(), "precision": precision_name()}
        if name == "times":
            found = time_panoramas(load("demo"), judges, BUDGET, WAYS)
        else:
            found = measure_panoramas(load("demo"), name, judges, BUDGET, work, WAYS)
        figures = load_figures(FIGURES)
        figures.setdefault("panoramas", {})[name] = {**found, **known_by}
        save_figures(figures, FIGURES)
        write(figures)


def main() -> None:
    """Run what is asked for and not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of WAYS, or times; without any, all that are not done")
    parser.add_argument("--work", type=Path, default=Path("runs/performance"))
    chosen = parser.parse_args()
    done = load_figures(FIGURES).get("panoramas", {})
    if unknown := [name for name in chosen.names if name not in (*WAYS, "times")]:
        parser.error(f"got {unknown[0]!r}; expected some of {', '.join(WAYS)}, times")
    measure(chosen.names or [name for name in (*WAYS, "times") if name not in done], chosen.work)


if __name__ == "__main__":
    main()
