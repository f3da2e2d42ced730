"""A modality of one's own, from its definition to pictures: the albedo of the demo world (docs/own-modality.md walks through this file).

jointnet --plugin examples/albedo.py COMMAND ...    every command knows albedo
python examples/albedo.py -o runs/albedo            all of it, in less than 20 minutes on two cores; stopped, it goes on
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import shlex
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import jointnet
from jointnet.demo.world.captions import describe
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.demo.world.splits import seeds

# 1. The modality


def clipped(maps: Tensor) -> Tensor:
    """Return decoded maps within the range, which decoders overshoot."""
    return maps.clamp(0, 1)


ALBEDO = jointnet.register_modality(
    jointnet.Modality(
        name="albedo",
        channels=3,
        meaning="colour of the surface in [0, 1], without light and shadow; the sky as it is seen",
        settle=clipped,
    )
)

# 2. The data folder: NAME.png, NAME.txt, NAME.albedo.png


def image_and_albedo(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene as it is and without light. Shapes: (size, size, 3) each, in [0, 1]."""
    scene = sample_scene(seed)
    return render(scene, size).rgb, render(replace(scene, light=None), size).rgb


def write_scene(seed: int, folder: Path, size: int) -> None:
    """Write the three files of a scene, unless they are there; its captions are one a line, and training draws one each time."""
    text = folder / f"{seed:08d}.txt"
    if text.exists():  # it is written last
        return
    for suffix, pixels in zip((".png", ".albedo.png"), image_and_albedo(seed, size), strict=True):
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(folder / f"{seed:08d}{suffix}")
    captions = [describe(sample_scene(seed), draw) for draw in range(3)]
    text.write_text("\n".join(captions) + "\n")


def write_data(folder: Path, num_scenes: int, size: int = 128) -> None:
    """Write training scenes, in two processes."""
    folder.mkdir(parents=True, exist_ok=True)
    context, one_thread = multiprocessing.get_context("spawn"), {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(2, context, **one_thread) as pool:
        list(pool.map(partial(write_scene, folder=folder, size=size), seeds("train", num_scenes), chunksize=50))


# 3. Training, and everything after it, is commands


def run(*words: str | Path) -> None:
    """Run a command that knows albedo. Raises: subprocess.CalledProcessError."""
    command = ["jointnet", "--plugin", __file__, *map(str, words)]
    print(f"$ {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


SETTINGS = ("freeze_rgb=true", "lr=6e-4", "text_drop=0.15", "warmup_steps=50")
"""Both ways to condition, as ``demo-tasks`` has them, at once with stage 1's settings: the base keeps its weights."""


# 4. How good is it? Pictures and figures on scenes that it was not trained on


@torch.no_grad()
def measure(pipe: jointnet.JointNetPipeline, num_scenes: int, size: int = 128, steps: int = 25) -> tuple[dict[str, Any], list[Tensor]]:
    """Compare with exact albedo.

    Returns:
        Figures, and rows of pictures (N, 3, size, size) in [0, 1]: drawn from the scenes' captions, their albedo, the scenes, the albedo
        predicted from them, their exact albedo.
    """
    held_out = seeds("test", num_scenes)
    pairs = np.stack([image_and_albedo(seed, size) for seed in held_out])  # (N, 2, size, size, 3)
    image, exact = torch.from_numpy(pairs).float().permute(1, 0, 4, 2, 3)  # (N, 3, size, size) each
    drawn, drawn_albedo, predicted = [], [], []
    for rows in torch.arange(num_scenes).split(16):
        captions = [describe(sample_scene(held_out[row]), 0) for row in rows]
        out = pipe(captions, height=size, width=size, num_inference_steps=steps, guidance_scale=3.0, **seeded(rows))
        drawn.append(out.images)
        drawn_albedo.append(out.dense["albedo"])
        predicted.append(pipe.predict(image[rows], num_inference_steps=steps, **seeded(rows)).dense["albedo"])
    drawn, drawn_albedo, predicted = map(torch.cat, (drawn, drawn_albedo, predicted))
    figures = {
        "error": {
            "exact albedo through the autoencoder": distance(pipe.codec.decode("albedo", pipe.codec.encode("albedo", exact)), exact),
            "predicted from the image": distance(predicted, exact),
            "the image as it is": distance(image, exact),
            "exact albedo of another scene": distance(exact.roll(1, 0), exact),
        },
        "correlation": {
            "rendered image and its exact albedo": correlation(image, exact),
            "drawn image and its albedo": correlation(drawn, drawn_albedo),
            "drawn image and another one's albedo": correlation(drawn, drawn_albedo.roll(1, 0)),
        },
    }
    return figures, [drawn, drawn_albedo, image, predicted, exact]


def seeded(rows: Tensor) -> dict[str, Any]:
    """Sampling options: picture i has seed i."""
    return {"generator": [torch.Generator().manual_seed(int(row)) for row in rows], "output_type": "pt"}


def distance(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference."""
    return float((a - b).abs().mean())


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over the pixels and channels of a picture; the mean of all pictures. Shapes: (N, 3, H, W) each."""
    a, b = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (a, b))
    return float(torch.cosine_similarity(a, b).mean())


def sheet(rows: list[Tensor], columns: int = 4) -> Image.Image:
    """Lay out the first pictures of every row."""
    whole = torch.cat([torch.cat(list(row[:columns]), 2) for row in rows], 1)  # (3, rows * H, columns * W)
    return Image.fromarray((whole.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def losses(run_folder: Path) -> dict[str, float]:
    """Return the albedo's loss in the first and the last row of a run's table."""
    with (run_folder / "loss.csv").open() as file:
        curve = [float(row["albedo"]) for row in csv.DictReader(file)]
    return {"first": curve[0], "last": curve[-1]}


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description="Albedo of the demo world: data, training, pictures, figures.")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--scenes", type=int, default=1200, help="to train on")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--budget", type=float, default=11, help="minutes after which training ends, however many steps it has done")
    parser.add_argument("--held-out", type=int, default=16, help="scenes to measure on")
    options = parser.parse_args()
    data, trained = options.output / "data", options.output / "run"

    write_data(data, options.scenes)
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    run("train", "demo-tasks", "--from", "demo-base", "--modalities", "rgb,albedo", "--data", data, "--steps", options.steps,
        "--budget", options.budget, *changes, "--log-every", "20", "-o", trained)  # fmt: skip
    model = trained / "model"
    run("generate", "a large red ball left of a small blue box on grass at sunset", "--guidance", "3", "--model", model,
        "-o", options.output / "drawn")  # fmt: skip

    pipe = jointnet.load(model)
    pipe.set_progress_bar_config(disable=True)
    figures, rows = measure(pipe, options.held_out)
    figures = {"scenes": options.scenes, "held_out": options.held_out, "loss": losses(trained), **figures}
    sheet(rows).save(options.output / "sheet.png", optimize=True)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
