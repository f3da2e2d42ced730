"""The loss curve of a run: rows on stderr, for trackers, and as a table and a picture in the run folder."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from jointnet.files.atomic import replacing_file, write_text
from jointnet.files.write_errors import naming_write_errors
from jointnet.training.state import Progress

CURVE_FILE, CURVE_PICTURE = "loss.csv", "loss.png"
_NOT_LOSSES = ("step", "seconds", "lr", "waiting")
_COLOURS = ("#1f4e9c", "#c2410c", "#15803d", "#7c3aed", "#be123c", "#0e7490")
_WIDTH, _HEIGHT, _MARGIN = 800, 400, 48


class Curve:
    """Means of the losses since the last row; a row every ``every`` steps."""

    def __init__(self, run_dir: Path, every: int, log: Callable[..., Any] | None = None) -> None:
        self.run_dir, self.every, self.log = run_dir, every, log
        self.count, self.sums, self.waited_s, self.since_s = 0, dict[str, Tensor | float](), 0.0, 0.0

    def add(self, losses: dict[str, Tensor], waited_s: float) -> None:
        """Add a step's losses, and the seconds that it waited for data."""
        self.count += 1
        self.waited_s += waited_s
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()  # on its device: a number would wait for it

    def write(self, progress: Progress, lr: float, *, is_shown: bool) -> None:
        """End a row where one is due."""
        if progress.step % self.every or not self.count:
            return
        row = {name: float(value) / self.count for name, value in self.sums.items()}
        last = progress.curve[-1]["seconds"] if progress.curve else 0.0
        waiting = min(1.0, self.waited_s / max(progress.seconds - last, 1e-9))
        progress.curve.append({"step": progress.step, "seconds": round(progress.seconds, 1), "lr": lr, "waiting": round(waiting, 4), **row})
        self.count, self.sums, self.waited_s = 0, {}, 0.0
        if self.log is not None:
            self.log({"lr": lr, **row}, step=progress.step)
        if is_shown:
            shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items())
            skipped = f"  {progress.skipped} skipped" if progress.skipped else ""
            print(f"step {progress.step}  {progress.seconds:.0f} s  lr {lr:.2e}  {shown}{skipped}", file=sys.stderr, flush=True)

    def save(self, progress: Progress) -> None:
        """Write the table and the picture into the run folder. Raises: OutputError."""
        if not progress.curve:
            return
        path = self.run_dir / CURVE_FILE
        names = list(dict.fromkeys(name for row in progress.curve for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(progress.curve)
        with naming_write_errors(path):
            write_text(path, text.getvalue())
            with replacing_file(self.run_dir / CURVE_PICTURE) as temporary:
                draw_curve(progress.curve).save(temporary, format="PNG")


def draw_curve(rows: list[dict[str, float]]) -> Image.Image:
    """Draw the losses over the steps, on a logarithmic scale."""
    from math import log10

    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    names = [name for name in rows[-1] if name not in _NOT_LOSSES]
    values = [row[name] for row in rows for name in names if row.get(name, 0) > 0]
    if not values:
        return image
    low, high = log10(min(values)), log10(max(values))
    low, high = (low, high) if high - low > 0.1 else (low - 0.05, high + 0.05)
    first, last = rows[0]["step"], max(rows[-1]["step"], rows[0]["step"] + 1)
    box = (_MARGIN, 16, _WIDTH - 16, _HEIGHT - 32)

    def place(step: float, value: float) -> tuple[float, float]:
        x = box[0] + (step - first) / (last - first) * (box[2] - box[0])
        return x, box[3] - (log10(value) - low) / (high - low) * (box[3] - box[1])

    draw.rectangle(box, outline="#999999")
    for share in (0, 0.25, 0.5, 0.75, 1):
        value, step = 10 ** (low + share * (high - low)), first + share * (last - first)
        y, x = place(first, value)[1], place(step, 10**low)[0]
        draw.line([(box[0], y), (box[2], y)], fill="#eeeeee")
        draw.text((4, y - 6), f"{value:.3g}", fill="#333333")
        draw.text((x - 12, box[3] + 6), f"{step:.0f}", fill="#333333")
    for colour, name in zip(_COLOURS * len(names), names, strict=False):
        points = [place(row["step"], row[name]) for row in rows if row.get(name, 0) > 0]
        draw.line(points, fill=colour, width=2)
        number = names.index(name)
        draw.text((box[2] - 96, box[1] + 6 + 14 * number), name, fill=colour)
    return image
