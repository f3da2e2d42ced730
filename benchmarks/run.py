"""What things cost: python benchmarks/run.py [SECTION ...] writes docs/benchmarks.md and docs/benchmarks.json.

A step of the joint network against its base's (both at Stable Diffusion 2.1-base's full size, 512 x 512, one sample, no guidance; they
alternate, and the ratio is taken within each pair), the operations of both, the memory of benchmarks/full_size.py, rendering scenes
of the demo world, how long commands take from nothing, what data sets cost (benchmarks/data.py), and training (benchmarks/training.py).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from jointnet.demo.measure.page import load_figures, origin, save_figures, table, verdict, write_page
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.demo.world.splits import seeds
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import data, training
from benchmarks.full_size import DTYPE, UNET, full_size_base

FIGURES = Path(__file__).parents[1] / "docs" / "benchmarks.json"


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.no_grad()
def step_ratio(pairs: int) -> dict[str, Any]:
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


def operations() -> dict[str, float]:
    """Floating-point operations of a step of each, counted without computing them."""
    with torch.device("meta"):
        base = UNet2DConditionModel(**UNET)
        joint = JointUNet.from_unet(base)
        x, t, text = torch.empty(1, 2, 4, 64, 64), torch.empty(1, 2), torch.empty(1, 77, 1024)
        counts = {}
        for name, run in {"base": lambda: base(x[:, 0], t[:, 0], text), "joint": lambda: joint(x, t, text)}.items():
            with FlopCounterMode(display=False) as counter:
                run()
            counts[name] = counter.get_total_flops()
    return {"ratio": round(counts["joint"] / counts["base"], 3)}


def memory() -> dict[str, Any]:
    """Each case in a process of its own."""
    script = Path(__file__).with_name("full_size.py")

    def printed(case: str) -> str:
        return subprocess.run([sys.executable, script, case], capture_output=True, text=True, check=True).stdout

    return {"cases": [json.loads(printed(case).strip().splitlines()[-1]) for case in ("image", "panorama")]}


def scene_rate(count: int = 100, repeats: int = 5) -> dict[str, Any]:
    """Scenes a second on one core, at 128 px with all maps: the median of some repetitions."""
    scenes = [sample_scene(seed) for seed in seeds("validation", count)]
    rates = [count / seconds(lambda: [render(scene, 128) for scene in scenes]) for _ in range(repeats)]
    return {"per_second": round(median(rates), 1), "rates": [round(rate, 1) for rate in rates]}


START = {
    "--version": "--version",
    "--help": "--help",
    "predict --help": "predict --help",
    "a missing picture": "predict missing.png -o out",
    "info": "info demo-tasks",
    "mesh of 512 px": "mesh scene/image.png scene/depth.npy -o scene.glb",
    "predict, one step": "predict small/image.png --steps 1 -o out",
}
"""What is timed -> its command."""

AIMS = {"--help": 0.5, "info": 1.0, "mesh of 512 px": 2.0}
"""Seconds at most."""


def start_times(rounds: int) -> dict[str, Any]:
    """Wall and processor times of whole processes: each round runs every command once, so that other load falls on all of them."""
    wall: dict[str, list[float]] = {name: [] for name in START}
    processor: dict[str, list[float]] = {name: [] for name in START}
    with tempfile.TemporaryDirectory() as scratch:

        def command(words: str, code: int = 0) -> None:
            done = subprocess.run([sys.executable, "-m", "jointnet", *words.split()], cwd=scratch, capture_output=True, check=False)
            assert done.returncode == code, done.stderr

        command("demo scene --size 512 -o scene")
        command("demo scene --size 128 -o small")
        for index in range(rounds + 1):  # the first one fills the caches of the disk
            for name, words in START.items():
                before = processor_seconds()
                taken = seconds(lambda words=words, name=name: command(words, 2 if "missing" in name else 0))
                if index:
                    wall[name].append(round(taken, 3))
                    processor[name].append(round(processor_seconds() - before, 3))
    load = round(os.getloadavg()[0], 1)
    return {"rounds": rounds, "load": load, "seconds": wall, "processor_seconds": processor}


def processor_seconds() -> float:
    """Seconds that all processes started from here and ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write(figures: dict[str, Any]) -> None:
    """The JSON and the page, of what has been measured."""
    save_figures(figures, FIGURES)
    sections = [section(figures[name]) + f"\n\n*{origin(figures[name])}.*" for name, section in SECTIONS.items() if name in figures]
    write_page(FIGURES.with_suffix(".md"), ["# Benchmarks", "Written by `python benchmarks/run.py`.", *sections])


def _step(figures: dict[str, Any]) -> str:
    return f"""## A step

Stable Diffusion 2.1-base's full size, random weights in bfloat16, 512 x 512, one sample, no guidance; seed 0.

A step of the joint network takes {figures["ratio"]} x the base's: median of {len(figures["ratios"])} interleaved pairs
({", ".join(str(r) for r in figures["ratios"])}; {figures["joint_seconds"]} s against {figures["base_seconds"]} s).
Aim: at most 2.0: {verdict(figures["ratio"] <= 2)}; the authors' release takes 2.03."""


def _operations(figures: dict[str, Any]) -> str:
    return f"""## A step's operations

Counted, a step of the joint network is {figures["ratio"]} x the base's operations: two whole branches and the exchanges between
them, at the size above. Run one after the other they take about that much time, whoever implements them."""


def _memory(figures: dict[str, Any]) -> str:
    rows = [[case["case"], f"{case['peak_gib']} GiB"] for case in figures["cases"]]
    fits = all(case["peak_gib"] * 2**30 <= 12e9 for case in figures["cases"])
    return f"""## Memory

The same weights, guided. image: 512 x 512, 2 steps; panorama: 512 x 2048, 360 degrees, 1 step.

{table(["case", "peak memory of the process"], rows)}

Aim: at most 12 GB: {verdict(fits)}."""


def _scenes(figures: dict[str, Any]) -> str:
    return f"""## The demo world

{figures["per_second"]} scenes a second on one core, at 128 px with image, disparity and normals: median of
{", ".join(map(str, figures["rates"]))}. Aim: at least 25: {verdict(figures["per_second"] >= 25)}."""


def _start(figures: dict[str, Any]) -> str:
    def row(name: str) -> list[str]:
        wall, processor = (median(figures[kind][name]) for kind in ("seconds", "processor_seconds"))
        aim = f"{AIMS[name]:g} s: {verdict(wall <= AIMS[name])}" if name in AIMS else ""
        return [name, f"`{START[name]}`", f"{wall:.2f} s", f"{processor:.2f} s", aim]

    return f"""## Start-up

Whole processes of `jointnet COMMAND`, medians of {figures["rounds"]} interleaved rounds; the machine's load was {figures["load"]},
this measurement included. All but the last import neither torch nor diffusers.

{table(["what", "command", "wall time", "processor time", "aim (wall time)"], [row(name) for name in START])}"""


SECTIONS = {"step": _step, "operations": _operations, "memory": _memory, "scenes": _scenes, "start": _start}
SECTIONS |= {"training step": training.step_section, "training operations": training.operations_section}
SECTIONS |= {"waiting": training.waiting_section}
SECTIONS |= {"scan": data.scan_section, "sources": data.memory_section, "build": data.build_section}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help="measure these and keep the others (default: all)")
    parser.add_argument("--pairs", type=int, default=7, help="of steps")
    parser.add_argument("--rounds", type=int, default=9, help="of start-up times")
    parser.add_argument("--repeats", type=int, default=3, help="of trainings, scans, sources and builds")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"got {', '.join(sorted(unknown))}; expected some of {', '.join(SECTIONS)}")
    known = load_figures(FIGURES)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "step": lambda: step_ratio(options.pairs),
        "operations": operations,
        "memory": memory,
        "scenes": scene_rate,
        "start": lambda: start_times(options.rounds),
        "training step": lambda: training.step_costs(rounds=options.repeats),
        "training operations": training.operations,
        "waiting": lambda: training.waiting_share(rounds=options.repeats),
        "scan": lambda: data.scan_names(rounds=options.repeats),
        "sources": lambda: data.memory_of_reading(rounds=options.repeats),
        "build": lambda: data.build_rates(rounds=options.repeats),
    }
    for name in options.sections or SECTIONS:
        known[name] = {"commit": code_commit(), "machine": machine(), **measures[name]()}
        write(known)
