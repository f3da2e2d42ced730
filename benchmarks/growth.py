"""How time and memory grow: python benchmarks/growth.py [KIND ...] writes docs/performance.json and docs/performance.md.

The bundled model, each case in a process of its own: "width" of a panorama in tiles, "batch" of pictures, "maps" of a joint network. Time
is of the second of two runs; memory is the peak of the process less what it held after loading and a first small run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from jointnet.demo.bundled import bundled_folder
from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.evaluation.models.adapters import generators_of
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.performance import FIGURES, write

CASES: Mapping[str, Sequence[int]] = {"width": (512, 1024, 2048, 4096, 8192), "batch": (1, 2, 4, 8, 16), "maps": (1, 2, 3, 4)}
STEPS = 2
PROMPT = "a red ball on a blue floor"


def pictures(count: int) -> Callable[[], object]:
    """A batch of pictures."""
    pipeline = load("demo")
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline([PROMPT] * count, num_inference_steps=STEPS, generator=generators_of(range(count)), output_type="pt")


def panorama(width: int) -> Callable[[], object]:
    """A canvas of 128 rows, in tiles."""
    pipeline = load("demo")
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline.panorama(
        PROMPT, height=128, width=width, num_inference_steps=STEPS, tiled=pipeline.tiling(whole_share=0.0), output_type="pt"
    )


def maps(count: int) -> Callable[[], object]:
    """A guided call of a network of so many branches, on the demo model's shapes."""
    unet = UNet2DConditionModel.from_pretrained(bundled_folder("demo-base") / "unet")
    network = JointUNet.from_unet(unet, ("rgb", *(f"map{number}" for number in range(1, count)))).eval()
    x, text = torch.randn(2, count, network.in_channels, 16, 16), torch.randn(2, 77, unet.config.cross_attention_dim)

    def run() -> object:
        with torch.no_grad():
            return [network(x, 500, text) for _ in range(10)]

    return run


KINDS: Mapping[str, Callable[[int], Callable[[], object]]] = {"width": panorama, "batch": pictures, "maps": maps}


def measure(kind: str, size: int) -> dict[str, float]:
    """One case in this process."""
    if kind == "maps":
        maps(1)()
    else:
        pictures(1)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = KINDS[kind](size)
    run()
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"size": size, "seconds": round(seconds, 3), "mib": round(grown / 1024, 1)}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of a line through the logarithms: values grow as sizes to this power."""
    x, y = [log(size) for size in sizes], [log(value) for value in values]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(CASES)}; without any, all")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "SIZE"), help="print one case")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(chosen.case[0], int(chosen.case[1]))))
        return
    if unknown := [kind for kind in chosen.kinds if kind not in CASES]:
        parser.error(f"got {unknown[0]!r}; expected some of {', '.join(CASES)}")
    for kind in chosen.kinds or CASES:
        print(f"== {kind}", file=sys.stderr, flush=True)
        rows: list[dict[str, Any]] = []
        for size in CASES[kind]:
            done = subprocess.run([sys.executable, __file__, "--case", kind, str(size)], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        seconds = exponent([row["size"] for row in rows], [row["seconds"] for row in rows])
        figures = load_figures(FIGURES)
        found = {"rows": rows, "exponent": round(seconds, 2), "commit": code_commit(), "machine": machine()}
        figures.setdefault("growth", {})[kind] = found
        save_figures(figures, FIGURES)
        write(figures)


if __name__ == "__main__":
    main()
