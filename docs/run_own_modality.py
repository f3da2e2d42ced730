"""Runs examples/albedo.py; its figures and pictures go into docs/own-modality.md: python docs/run_own_modality.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import provenance_of
from jointnet.demo.measure.page import load_figures, origin, save_figures, table
from jointnet.files.atomic import write_text
from jointnet.machine.origin import code_commit, machine

DOCS = Path(__file__).parent
PAGE, FIGURES, PICTURE = DOCS / "own-modality.md", DOCS / "own-modality.json", DOCS / "pictures" / "albedo.png"
MARK = "<!-- written by: python docs/run_own_modality.py -->\n"
"""What stands behind it on the page is written anew."""


def run(folder: Path) -> dict[str, Any]:
    """Run the example; return its figures and where they come from."""
    source = {"commit": code_commit(), "machine": machine()}
    started = time.monotonic()
    subprocess.run([sys.executable, DOCS.parent / "examples" / "albedo.py", "-o", folder], check=True)
    took = {"minutes": round((time.monotonic() - started) / 60, 1), "load": round(os.getloadavg()[2], 1)}
    provenance = provenance_of(folder / "run" / "model")
    training = {name: provenance[name] for name in ("steps", "samples_seen", "seconds")}
    training["seed"] = provenance["config"]["optim"]["seed"]
    PICTURE.write_bytes((folder / "sheet.png").read_bytes())
    return {**source, **json.loads((folder / "figures.json").read_text()), "training": training, **took}


def section(figures: dict[str, Any]) -> str:
    """Return the part of the page that is written here."""
    training, loss = figures["training"], figures["loss"]
    return f"""
## What comes out

![drawn image and albedo; held-out image, predicted and exact albedo](pictures/{PICTURE.name})

From above: images drawn from the captions of held-out scenes, and their albedo; the scenes themselves, the albedo predicted from them,
and the exact one. The first four scenes, none picked.

Training: {figures["scenes"]} scenes, {training["steps"]} steps, {training["samples_seen"]} samples, {training["seconds"] / 60:.0f} minutes;
the loss of the albedo fell from {loss["first"]:.3f} (mean of the first 20 steps) to {loss["last"]:.3f} (of the last ones).

Mean absolute difference from the exact albedo, {figures["held_out"]} held-out scenes, values in [0, 1]:

{table(["albedo", "error"], [[name, f"{value:.3f}"] for name, value in figures["error"].items()])}

Do image and albedo belong together? Correlation over the pixels and channels of a pair, mean of {figures["held_out"]}:

{table(["pair", "correlation"], [[name, f"{value:.3f}"] for name, value in figures["correlation"].items()])}

Training seed {training["seed"]}; scene i is sampled with seed i; drawn in 25 steps at guidance 3, predicted in 25 steps.
All of it took {figures["minutes"]:.0f} minutes at a load of {figures["load"]:g}, this included; training ends
after 400 steps, or by the clock. *{origin(figures)}.*
"""


def write(figures: dict[str, Any], page: Path = PAGE) -> None:
    """Write the section behind the mark of a page."""
    head, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    write_text(page, head + mark + section(figures))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        save_figures(run(Path(scratch)), FIGURES)
    write(load_figures(FIGURES))
