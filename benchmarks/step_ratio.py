"""What a step of the joint network costs against its base's: python benchmarks/step_ratio.py [--pairs N]

Both at Stable Diffusion 2.1-base's full size, 512 x 512, one sample, no guidance; base and joint step alternate, the ratio is taken within
each pair. Writes docs/benchmarks.json, and docs/benchmarks.md from it and the memory of benchmarks/full_size.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from jointnet.demo.measure.page import origin, save_figures, verdict
from jointnet.models.joint_unet import JointUNet
from jointnet.training.provenance import code_commit, machine

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.full_size import DTYPE, full_size_base

DOCS = Path(__file__).parents[1] / "docs"


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.no_grad()
def measure(pairs: int) -> dict[str, object]:
    """Interleaved pairs of one step each."""
    base = full_size_base().unet
    joint = JointUNet.from_unet(base)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 64, 64, generator=g).to(DTYPE)
    text = torch.randn(1, 77, 1024, generator=g).to(DTYPE)
    steps: dict[str, Callable[[], object]] = {
        "base": lambda: base(x[:, 0], 500, text),
        "joint": lambda: joint(x, 500, text),
    }
    for run in steps.values():
        run()
    times = {name: [0.0] * pairs for name in steps}
    for index in range(pairs):
        for name in list(steps) if index % 2 else reversed(list(steps)):
            times[name][index] = seconds(steps[name])
    ratios = [j / b for j, b in zip(times["joint"], times["base"], strict=True)]
    return {
        "base_seconds": round(median(times["base"]), 3),
        "joint_seconds": round(median(times["joint"]), 3),
        "ratios": [round(r, 3) for r in ratios],
        "ratio": round(median(ratios), 3),
    }


def memory() -> list[dict[str, object]]:
    """Each case in a process of its own."""
    script = Path(__file__).with_name("full_size.py")

    def printed(case: str) -> str:
        return subprocess.run([sys.executable, script, case], capture_output=True, text=True, check=True).stdout

    return [json.loads(printed(case).strip().splitlines()[-1]) for case in ("image", "panorama")]


def write(figures: dict[str, object], cases: list[dict[str, object]]) -> None:
    """The JSON and the page."""
    facts = {"step": figures, "memory": cases, "seed": 0, "commit": code_commit(), "machine": machine()}
    save_figures(facts, DOCS / "benchmarks.json")
    rows = "\n".join(f"| {case['case']} | {case['peak_gib']} GiB | {case['seconds']} s |" for case in cases)
    page = f"""# Benchmarks

Stable Diffusion 2.1-base's full size, random weights in bfloat16. Written by `python benchmarks/step_ratio.py`; seed 0,
{origin(facts)}.

**A step of the joint network takes {figures["ratio"]} x the base's** (median of {len(figures["ratios"])} interleaved pairs:
{", ".join(str(r) for r in figures["ratios"])}; {figures["joint_seconds"]} s against {figures["base_seconds"]} s).
The aim is at most 2.0: {verdict(figures["ratio"] <= 2)}; the authors' release takes 2.03.

| case, guided | peak memory of the process | time |
|---|---|---|
{rows}

image: 512 x 512, 2 steps; panorama: 512 x 2048, 360 degrees, 1 step. The limit is 12 GB.
"""
    (DOCS / "benchmarks.md").write_text(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    write(measure(parser.parse_args().pairs), memory())
