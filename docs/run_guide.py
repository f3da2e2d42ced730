"""Runs the commands and the Python of docs/guide.md in a fresh folder and makes its pictures: python docs/run_guide.py [PICTURE]

Commands of a model that has to be made first are left out, and named, where it has not been.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from jointnet.demo.bundled import BUNDLED, WEIGHTS

DOCS = Path(__file__).parent
HEIGHT = 192


def strip(paths: list[Path], *, below: bool) -> Image.Image:
    """Pictures side by side at one height, or one below the other."""
    pictures = []
    for path in paths:
        image = Image.open(path)
        image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8)) if image.mode.startswith("I") else image
        image = image.convert("RGB")
        scale = 2 if below else HEIGHT / image.height
        pictures.append(np.asarray(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)))
    return Image.fromarray(np.concatenate(pictures, 0 if below else 1))


def turned(path: Path, yaw_deg: float, shift: tuple[float, float, float], size: int = 256, fov_deg: float = 55) -> Image.Image:
    """A mesh as points, seen by a camera that stands at ``shift`` and looks along -z, turned to the left by yaw_deg."""
    mesh = trimesh.load(path, force="mesh", process=False)
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    corners = [(i / 8, j / 8) for i in range(9) for j in range(9 - i)]
    weights = np.array([(u, v, 1 - u - v) for u, v in corners])
    points = np.einsum("cw,fwx->cfx", weights, mesh.vertices[mesh.faces]).reshape(-1, 3)
    uv = np.einsum("cw,fwx->cfx", weights, np.asarray(mesh.visual.uv)[mesh.faces]).reshape(-1, 2)
    row = ((1 - uv[:, 1]) * texture.shape[0]).clip(0, texture.shape[0] - 1).astype(int)
    column = ((uv[:, 0] % 1) * texture.shape[1]).clip(0, texture.shape[1] - 1).astype(int)
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    seen = (points - np.array(shift)) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
    focal = size / 2 / np.tan(np.radians(fov_deg) / 2)
    depth = -seen[:, 2]
    front = depth > 0.1
    x = (seen[front, 0] / depth[front] * focal + size / 2).astype(int)
    y = (size / 2 - seen[front, 1] / depth[front] * focal).astype(int)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    order = np.argsort(-depth[front][inside])
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[y[inside][order], x[inside][order]] = texture[row[front][inside][order], column[front][inside][order]]
    return Image.fromarray(canvas)


def main(words: list[str]) -> None:
    guide = (DOCS / "guide.md").read_text()
    chunks = re.findall(r"```sh(?: model=([\w-]+))?\n(.*?)```(.*?)(?=```sh|\Z)", guide, re.S)
    with tempfile.TemporaryDirectory() as scratch:
        for model, commands, after in chunks:
            if model and not (WEIGHTS / BUNDLED[model]).is_dir():
                print(f"left out: {model} has not been made here", flush=True)
                continue
            for command in commands.strip().splitlines():
                parts = shlex.split(command)
                parts[:1] = [sys.executable, "-m", "jointnet.cli.main"] if parts[0] == "jointnet" else [sys.executable]
                print(command, flush=True)
                subprocess.run(parts, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            picture = re.search(r"\((pictures/[\w-]+\.png)\)", after)
            shows = re.search(r"<!-- shows( below)?: (.*?) -->", after)
            turns = re.search(r"<!-- turns: (.*?) -->", after)
            if words and not any(word in (picture[1] if picture else "") for word in words):
                continue
            if picture and shows:
                image = strip([Path(scratch) / name for name in shows[2].split()], below=bool(shows[1]))
                image.save(DOCS / picture[1], optimize=True)
            elif picture and turns:
                views = [(0, (0, 0, 0)), (12, (0.8, 0.2, -0.3)), (-12, (-0.8, 0.3, -0.3))]
                seen = [np.asarray(turned(Path(scratch) / turns[1], yaw, shift)) for yaw, shift in views]
                Image.fromarray(np.concatenate(seen, 1)).save(DOCS / picture[1], optimize=True)
        if not words:
            script = "".join(re.findall(r"```python\n(.*?)```", guide, re.S))
            subprocess.run([sys.executable, "-c", script], cwd=scratch, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
