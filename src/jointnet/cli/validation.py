"""Contact sheets of a training run: the same prompts with the same seeds, every so many steps (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors
from jointnet.machine.processes import is_main_process
from jointnet.modalities.modality import get_modality
from jointnet.modalities.write import preview, to_pil

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.training.state import Progress

FOLDER, SEED, STEPS = "validation", 0, 20
_LARGEST_SIDE = 256


class ContactSheets:
    """Called by the trainer: samples every prompt with seed 0 and writes ``validation/step-NNNNNNNN.png``, a row a prompt.

    Every process samples, because sharded weights are gathered by all; the main one writes.
    """

    def __init__(self, pipeline: JointNetPipeline, prompts: Sequence[str], run_dir: Path, size: int) -> None:
        self.pipeline, self.prompts, self.run_dir, self.size = pipeline, list(prompts), run_dir, size

    def __call__(self, progress: Progress) -> None:
        """Raises: OutputError."""
        self.pipeline.set_progress_bar_config(disable=True)
        rows = [self._row(prompt) for prompt in self.prompts]
        if not is_main_process():
            return
        path = self.run_dir / FOLDER / f"step-{progress.step:08d}.png"
        with naming_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary:
                sheet(rows).save(temporary, format="PNG")

    def _row(self, prompt: str) -> list[Image.Image]:
        """One prompt's maps as pictures."""
        from jointnet.tasks.generate import Generate
        from jointnet.tasks.options import SamplingOptions

        generator = torch.Generator().manual_seed(SEED)
        steps = None if self.pipeline.config.default_steps is not None else STEPS
        options = SamplingOptions(num_inference_steps=steps, generator=generator)
        result = self.pipeline.run(Generate(prompt=prompt, height=self.size, width=self.size, options=options))
        return [picture_of(name, maps[0]) for name, maps in result.maps.items()]


def picture_of(modality: str, map_: torch.Tensor) -> Image.Image:
    """Return a map (c, H, W) to look at: colours as they are, one channel in the preview's colours."""
    low, high = get_modality(modality).limits
    return preview(map_) if map_.shape[0] == 1 else to_pil((map_ - low) / (high - low))


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Put pictures of one size side by side, a row each."""
    width, height = rows[0][0].size
    scale = min(1.0, _LARGEST_SIDE / max(width, height))
    width, height = round(width * scale), round(height * scale)
    whole = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            whole.paste(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (left * width, top * height))
    return whole
